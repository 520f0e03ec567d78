# SPDX-License-Identifier: Apache-2.0
"""Who runs a restored detector: NNabla, or ONNX Runtime by way of an export that is never written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pointdet.errors import PointDetError
from pointdet.inference.exported import OnnxNetwork
from pointdet.inference.restore import Model

ENGINES = ("nnabla", "onnxruntime")


def of(path: Path, asked: str | None) -> str:
    """The engine for `path`: the one asked for, else ONNX Runtime for .onnx files and NNabla for all others.

    Errors: PointDetError for an engine that does not exist or cannot run this file.
    """
    only = {".onnx": "onnxruntime", ".nnp": "nnabla"}.get(path.suffix)
    if asked not in (*ENGINES, None):
        raise PointDetError(f"unknown engine {asked!r}; use {' or '.join(ENGINES)}")
    if only and asked not in (only, None):
        raise PointDetError(f"{path} runs in {only}, not in {asked}; leave the engine out")
    return asked or only or "nnabla"


def on_engine(model: Model, engine: str) -> Model:
    """The same detector, run by `engine`."""
    if engine == "nnabla" or model.engine is not None:
        return model
    from pointdet.export import onnx  # slow to import

    content = onnx.convert(model).SerializeToString()
    return replace(model, engine=OnnxNetwork(Path("the exported network"), content))
