# SPDX-License-Identifier: Apache-2.0
"""Detector -> .onnx with its metadata, for any batch size and any image size that the backbone takes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nnabla as nn
import nnabla.functions as F
import numpy as np

from pointdet.errors import PointDetError
from pointdet.files import replacing

try:
    import onnx
    from onnx import TensorProto, helper
except ImportError:
    raise PointDetError(
        "ONNX is not installed; pip install -r requirements-onnx.txt, or the extra onnx of pointdet"
    ) from None

from pointdet.export.emitters import EMITTERS, corner_pool_step
from pointdet.export.existing import refuse_foreign
from pointdet.export.graph import export_graph, in_nchw, metadata, remove_normalisation
from pointdet.export.nodes import Nodes
from pointdet.model.exported import METADATA_KEY
from pointdet.model.metadata import Contents
from pointdet.model.restore import Model

OPSET = 17  # GridSample needs 16
MIN_LARGEST_SIDE = 1024  # pixels; the least `largest_side` of networks with corner pooling


def convert(model: Model, contents: Contents = "maps", half: bool = False) -> onnx.ModelProto:
    """The ONNX model of a detector. Batch normalisation is folded into the convolutions.

    Args:
        contents: what the network includes, see `model.metadata.Contents`; the input is "image".
        half: float16 inside the network; the types of input and outputs do not change.
    Errors: PointDetError for a function that cannot be exported.
    """
    model = in_nchw(model)
    described = metadata(model, contents, "half" if half else "float")
    # The graph is never run. Its input size only sets the number of steps of corner pooling, and with it the
    # largest input of the exported network.
    sides, step = (model.config.input.height, model.config.input.width), model.config.model.granularity
    side = -(-max(*sides, MIN_LARGEST_SIDE) // step) * step
    graph = export_graph(model, (1, side, side), with_peaks=contents == "pipeline")
    image = remove_normalisation(graph)
    functions: list[nn.function.Function] = []
    F.sink(*graph.outputs.values()).visit(functions.append)
    nodes = Nodes(functions, half)
    normalised = "image" if contents == "network" else _normalised(nodes, model.colour)
    nodes.bind(image, nodes.as_half(normalised))
    if emit(nodes, functions):
        described = replace(described, largest_side=side)
    for name, variable in graph.outputs.items():
        result = nodes.as_float(nodes.name_of(variable))
        nodes.nodes.append(helper.make_node("Identity", [result], [name], name))

    if contents == "network":
        shape: list[str | int | None] = ["batch", len(model.colour), "height", "width"]
        source = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    else:
        source = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", "height", "width", 3])
    results = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", v.shape[1], "rows", "columns"])
        for name, v in graph.outputs.items()
    ]
    onnx_graph = helper.make_graph(nodes.nodes, "pointdet", [source], results, nodes.initializers())
    opset = helper.make_opsetid("", OPSET)
    converted = helper.make_model(onnx_graph, opset_imports=[opset], ir_version=8, producer_name="PointDet")
    helper.set_model_props(converted, {METADATA_KEY: json.dumps(described.fields())})
    return converted


def emit(nodes: Nodes, functions: list[nn.function.Function]) -> bool:
    """Add the nodes of all functions that depend on the image.

    Returns: whether the network has corner pooling.
    Errors: PointDetError for a function that cannot be exported.
    """
    within_pools: set[nn.Variable] = set()  # intermediate results that the nodes of `concatenate` replace
    for f in functions:
        if f.info.type_name == "Concatenate" and corner_pool_step(f):
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
    """Check the model, write it under a temporary name and rename it.

    Errors: PointDetError if that fails, or if it would replace a file of another program.
    """
    refuse_foreign(path)
    onnx.checker.check_model(model, full_check=True)
    with replacing(path) as writing:
        writing.write_bytes(model.SerializeToString())


def _normalised(nodes: Nodes, colour: Any) -> str:
    """BGR pixels (B, H, W, 3) uint8 -> the normalised image (B, C, H, W) float32."""
    pixels = nodes.add("Transpose", nodes.add("Cast", "image", to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    weight = np.ascontiguousarray(colour[:, :3, None, None], np.float32)
    shift = np.ascontiguousarray(colour[:, 3], np.float32)
    with nodes.in_float():
        return nodes.add("Conv", pixels, weight, shift, kernel_shape=[1, 1])
