# SPDX-License-Identifier: Apache-2.0
"""Post-training quantisation of an ONNX model: convolutions in int8, calibrated on images."""

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

from pointdet.model.exported import METADATA_KEY


def int8(model: onnx.ModelProto, inputs: Iterable[npt.NDArray[Any]]) -> onnx.ModelProto:
    """The model with convolutions in int8 and one scale per output channel of their weights.

    The last convolution of every output stays in float32: 8 bits are too few for the range of box sizes.

    Args:
        inputs: inputs of the network, for calibration.
    """
    reader = _Reader(list(inputs))
    logging.disable(logging.WARNING)  # it recommends a pre-processing that this graph does not need
    try:
        with tempfile.TemporaryDirectory() as folder:
            # Given a model in memory, quantize_static would move its constants into a file.
            source, path = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
            onnx.save(model, source)
            quantize_static(
                *(source, path, reader),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "ConvTranspose"],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=_excluded(model),
            )
            return _with_metadata(onnx.load(path), {entry.key: entry.value for entry in model.metadata_props})
    finally:
        logging.disable(logging.NOTSET)


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # the library has no types
    def __init__(self, inputs: list[npt.NDArray[Any]]) -> None:
        self._inputs = iter(inputs)

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        image = next(self._inputs, None)
        return None if image is None else {"image": image}


def _excluded(model: onnx.ModelProto) -> list[str]:
    """Names of the first convolution, which is the normalisation, and of the last one before every output."""
    producers = {name: node for node in model.graph.node for name in node.output}
    found = [next(node.name for node in model.graph.node if node.op_type == "Conv")]
    for output in model.graph.output:
        node = producers[output.name]
        while node.op_type != "Conv":
            node = producers[node.input[0]]
        found.append(node.name)
    return found


def _with_metadata(model: onnx.ModelProto, properties: dict[str, str]) -> onnx.ModelProto:
    """Set the metadata, which the quantiser does not preserve, with precision "int8"."""
    helper.set_model_props(
        model, {METADATA_KEY: json.dumps(json.loads(properties[METADATA_KEY]) | {"precision": "int8"})}
    )
    return model
