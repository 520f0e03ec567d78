# SPDX-License-Identifier: Apache-2.0
"""The engine that runs a network: NNabla, or ONNX Runtime after an export to ONNX in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pointdet.errors import PointDetError
from pointdet.model.exported import OnnxNetwork
from pointdet.model.restore import Model
from pointdet.ops.cpu.process_state import building

ENGINES = ("nnabla", "onnxruntime")


def of(path: Path, requested: str | None) -> str:
    """The engine for `path`: `requested`, or by default ONNX Runtime for .onnx files and NNabla for others.

    Errors: PointDetError for an unknown engine, or one that cannot run this file.
    """
    only = {".onnx": "onnxruntime", ".nnp": "nnabla"}.get(path.suffix)
    if requested not in (*ENGINES, None):
        raise PointDetError(f"unknown engine {requested!r}; use {' or '.join(ENGINES)}")
    if only and requested not in (only, None):
        raise PointDetError(f"{path} runs in {only}, not in {requested}; leave the engine out")
    return requested or only or "nnabla"


def on_engine(model: Model, engine: str) -> Model:
    """The same detector with a network that runs in `engine`. Exported networks are returned unchanged."""
    if engine == "nnabla" or model.engine is not None:
        return model
    from pointdet.export import onnx  # slow to import

    with building:
        content = onnx.convert(model).SerializeToString()
    return replace(model, engine=OnnxNetwork(Path("the exported network"), content))
