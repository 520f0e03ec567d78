# SPDX-License-Identifier: Apache-2.0
"""Modulated deformable convolution 3x3 in ONNX: nine samples of each cell and a product, for any size of image."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from pointdet.export.nodes import Linear, Nodes

TAPS = 9


def deformable_convolution(nodes: Nodes, f: Any) -> str:
    """ONNX has the operator since opset 19, ONNX Runtime not on the CPU; GridSample takes the same samples."""
    x, w, offset, mask, bias = f.inputs
    channels = x.shape[1]
    with nodes.in_float():  # in half, a position beyond cell 64 would be known to a sixteenth of a cell only
        image, moved = nodes.as_float(nodes.of(x)), nodes.as_float(nodes.of(offset))
        shape = nodes.add("Shape", image)
        # (B, 9, H, W, 2), x before y -> (B, 1, 9 H W, 2).
        pair = nodes.add(
            "Concat", _coordinate(nodes, moved, shape, 3), _coordinate(nodes, moved, shape, 2), axis=4
        )
        grid = nodes.add("Reshape", pair, np.array([0, 1, -1, 2]))
        samples = nodes.add(
            *("GridSample", image, grid), mode="bilinear", padding_mode="zeros", align_corners=0
        )
        weighted = nodes.add(
            "Mul",
            nodes.add("Reshape", samples, np.array([0, 0, TAPS, -1])),
            nodes.add("Reshape", nodes.of(mask), np.array([0, 1, TAPS, -1])),
        )
        columns = nodes.as_half(nodes.add("Reshape", weighted, np.array([0, channels * TAPS, -1])))
    weight = nodes.constant(nodes.value(w).reshape(-1, channels * TAPS, 1))
    b = nodes.constant(nodes.value(bias))
    flat = nodes.add("Conv", columns, weight, b, kernel_shape=[1])
    sides = nodes.add("Slice", shape, np.array([2]), np.array([4]))
    y = nodes.add("Reshape", flat, nodes.add("Concat", np.array([0, w.shape[0]]), sides, axis=0))
    nodes.linear[y] = Linear(weight, b, 0)
    return y


def _coordinate(nodes: Nodes, offset: str, shape: str, axis: int) -> str:
    """Where the taps look along `axis` (2: y, 3: x), (B, 9, H, W, 1), in [-1, 1] between the map's outer edges."""
    size = nodes.add("Gather", shape, np.array(axis))
    extent = nodes.add("Cast", size, to=TensorProto.FLOAT)
    cells = nodes.add("Range", np.array(0), size, np.array(1))
    along = np.array([-1, 1] if axis == 2 else [1, -1])
    place = nodes.add("Reshape", nodes.add("Cast", cells, to=TensorProto.FLOAT), along)
    taps = np.indices((3, 3))[axis - 2].reshape(TAPS, 1, 1) - 1
    # The middle of cell p lies at (2 p + 1) / size - 1.
    middle = nodes.add("Add", place, (taps + 0.5).astype(np.float32))
    # y and x of each tap in turn.
    moved = nodes.add(
        "Slice", offset, np.array([axis - 2]), np.array([2 * TAPS]), np.array([1]), np.array([2])
    )
    looked = nodes.add("Add", moved, middle)
    doubled = nodes.add("Div", np.array(2, np.float32), extent)
    scaled = nodes.add("Add", nodes.add("Mul", looked, doubled), np.array(-1, np.float32))
    return nodes.add("Unsqueeze", scaled, np.array([4]))
