# SPDX-License-Identifier: Apache-2.0
"""An ONNX model -> the same with convolutions in int8, their ranges found on images."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
from onnx import helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from pointdet.inference.exported import METADATA


def int8(model: onnx.ModelProto, inputs: Iterable[npt.NDArray[Any]]) -> onnx.ModelProto:
    """Convolutions in int8, with a scale for each channel; `inputs`: what the network is fed, to find the ranges by.

    The last convolution of every output stays in float32: a box's size has no bounds worth 8 bits.
    """
    reader = _Reader(list(inputs))
    logging.disable(logging.WARNING)  # a preparation is recommended; the graph has had it
    try:
        with tempfile.TemporaryDirectory() as folder:
            # Of a model in memory it would move the constants into a file.
            given, path = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
            onnx.save(model, given)
            quantize_static(
                *(given, path, reader),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "ConvTranspose"],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=_ends(model),
            )
            return _told(onnx.load(path), {entry.key: entry.value for entry in model.metadata_props})
    finally:
        logging.disable(logging.NOTSET)


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # shipped without types
    def __init__(self, inputs: list[npt.NDArray[Any]]) -> None:
        self._inputs = iter(inputs)

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        image = next(self._inputs, None)
        return None if image is None else {"image": image}


def _ends(model: onnx.ModelProto) -> list[str]:
    """Names of the first convolution, which normalises, and of the last before every output."""
    makers = {name: node for node in model.graph.node for name in node.output}
    found = [next(node.name for node in model.graph.node if node.op_type == "Conv")]
    for output in model.graph.output:
        node = makers[output.name]
        while node.op_type != "Conv":
            node = makers[node.input[0]]
        found.append(node.name)
    return found


def _told(model: onnx.ModelProto, card: dict[str, str]) -> onnx.ModelProto:
    """The model with its metadata, which the quantiser loses or adds to."""
    helper.set_model_props(model, {METADATA: json.dumps(json.loads(card[METADATA]) | {"precision": "int8"})})
    return model
