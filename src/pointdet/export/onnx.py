# SPDX-License-Identifier: Apache-2.0
"""Detector -> ONNX for any batch and any image size the backbone takes; the card is the file's metadata."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nnabla as nn
import nnabla.functions as F
import numpy as np

from pointdet.errors import PointDetError

try:
    import onnx
    from onnx import TensorProto, helper
except ImportError:
    raise PointDetError("ONNX is not installed; pip install -r requirements-onnx.txt") from None

from pointdet.export.emitters import EMITTERS, doubling
from pointdet.export.graph import card, cut, export_graph, in_nchw
from pointdet.export.nodes import Nodes
from pointdet.inference.card import Contents
from pointdet.inference.exported import METADATA
from pointdet.inference.restore import Model

OPSET = 17  # GridSample came with 16
LEAST_REACH = 1024  # pixels; corner pools see at least so far, whatever the size that is configured


def convert(model: Model, contents: Contents = "maps", half: bool = False) -> onnx.ModelProto:
    """The network, input "image", see `card.Contents`; batch normalisation is part of the convolutions.

    half: float16 between input and output, which stay float32.
    Errors: PointDetError for a function that has no counterpart.
    """
    model = in_nchw(model)
    told = card(model, contents, "half" if half else "float")
    # Only the number of steps of corner pools depends on the size; nothing is computed here.
    sides, step = (model.config.input.height, model.config.input.width), model.config.model.granularity
    side = -(-max(*sides, LEAST_REACH) // step) * step
    graph = export_graph(model, (1, side, side), with_peaks=contents == "pipeline")
    image = cut(graph)
    functions: list[nn.function.Function] = []
    F.sink(*graph.outputs.values()).visit(functions.append)
    nodes = Nodes(functions, half)
    normalised = "image" if contents == "network" else _normalised(nodes, model.colour)
    nodes.bind(image, nodes.as_half(normalised))
    if emit(nodes, functions):
        told = replace(told, largest_side=side)
    for name, variable in graph.outputs.items():
        result = nodes.as_float(nodes.of(variable))
        nodes.nodes.append(helper.make_node("Identity", [result], [name], name))

    if contents == "network":
        shape: list[str | int | None] = ["batch", len(model.colour), "height", "width"]
        given = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    else:
        given = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", "height", "width", 3])
    results = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", v.shape[1], "rows", "columns"])
        for name, v in graph.outputs.items()
    ]
    body = helper.make_graph(nodes.nodes, "pointdet", [given], results, nodes.initializers())
    opset = helper.make_opsetid("", OPSET)
    made = helper.make_model(body, opset_imports=[opset], ir_version=8, producer_name="PointDet")
    helper.set_model_props(made, {METADATA: json.dumps(told.fields())})
    return made


def emit(nodes: Nodes, functions: list[nn.function.Function]) -> bool:
    """Write what depends on the image; whether there are corner pools. Errors: PointDetError for unknown functions."""
    within_pools: set[nn.Variable] = set()  # which `concatenate` writes without
    for f in functions:
        if f.info.type_name == "Concatenate" and doubling(f):
            highest = [v.parent for v in f.inputs if v.parent.info.type_name == "Maximum2"]
            within_pools |= {*f.inputs, *highest[0].inputs}
    for f in functions:
        kind, y = f.info.type_name, f.outputs[0]
        if kind == "Sink" or not any(nodes.depends(v) for v in f.inputs):
            continue
        if y in within_pools:
            nodes.bind(y, "")
            continue
        if kind not in EMITTERS:
            raise PointDetError(
                f"NNabla's function {kind} cannot be exported to ONNX; export to .nnp instead"
            )
        nodes.bind(y, EMITTERS[kind](nodes, f))
    return bool(within_pools)


def write(model: onnx.ModelProto, path: Path) -> None:
    """Check the model and write it beside its place, then rename. Errors: PointDetError when it cannot be written."""
    onnx.checker.check_model(model, full_check=True)
    beside = path.with_name(f".{path.name}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(model.SerializeToString())
        beside.rename(path)
    except OSError as error:
        raise PointDetError(f"cannot write {path} ({error.strerror}); choose another place") from None


def _normalised(nodes: Nodes, colour: Any) -> str:
    """BGR pixels, uint8 (B, H, W, 3) -> what the network is fed."""
    pixels = nodes.add("Transpose", nodes.add("Cast", "image", to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    weight = np.ascontiguousarray(colour[:, :3, None, None], np.float32)
    shift = np.ascontiguousarray(colour[:, 3], np.float32)
    with nodes.in_float():
        return nodes.add("Conv", pixels, weight, shift, kernel_shape=[1, 1])
