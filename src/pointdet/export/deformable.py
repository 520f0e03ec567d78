# SPDX-License-Identifier: Apache-2.0
"""Modulated deformable convolution 3x3 in ONNX for any image size: sample nine taps per cell, multiply."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from pointdet.export.nodes import ConvolutionConstants, Nodes

TAPS = 9


def deformable_convolution(nodes: Nodes, f: Any) -> str:
    """Write the function with GridSample: the CPU provider of ONNX Runtime has no DeformConv.

    Args:
        f: the function; inputs x (B, C, H, W), weight, offset (B, 18, H, W), mask (B, 9, H, W) and bias.
    Returns: the name of the result (B, K, H, W).
    """
    x, w, offset, mask, bias = f.inputs
    channels = x.shape[1]
    with nodes.in_float():  # float16 rounds positions beyond cell 64 to 1/16 of a cell
        image, offsets = nodes.as_float(nodes.name_of(x)), nodes.as_float(nodes.name_of(offset))
        shape = nodes.add("Shape", image)
        # (B, 9, H, W, 2), x before y -> (B, 1, 9 H W, 2).
        pair = nodes.add(
            "Concat", _coordinate(nodes, offsets, shape, 3), _coordinate(nodes, offsets, shape, 2), axis=4
        )
        grid = nodes.add("Reshape", pair, np.array([0, 1, -1, 2]))
        samples = nodes.add(
            *("GridSample", image, grid), mode="bilinear", padding_mode="zeros", align_corners=0
        )
        weighted = nodes.add(
            "Mul",
            nodes.add("Reshape", samples, np.array([0, 0, TAPS, -1])),
            nodes.add("Reshape", nodes.name_of(mask), np.array([0, 1, TAPS, -1])),
        )
        columns = nodes.as_half(nodes.add("Reshape", weighted, np.array([0, channels * TAPS, -1])))
    weight = nodes.constant(nodes.value(w).reshape(-1, channels * TAPS, 1))
    b = nodes.constant(nodes.value(bias))
    flat = nodes.add("Conv", columns, weight, b, kernel_shape=[1])
    sides = nodes.add("Slice", shape, np.array([2]), np.array([4]))
    y = nodes.add("Reshape", flat, nodes.add("Concat", np.array([0, w.shape[0]]), sides, axis=0))
    nodes.convolutions[y] = ConvolutionConstants(weight, b, 0)
    return y


def _coordinate(nodes: Nodes, offset: str, shape: str, axis: int) -> str:
    """(B, 9, H, W, 1) coordinates of the taps along `axis` (2: y, 3: x). The edges of the map are -1, 1."""
    size = nodes.add("Gather", shape, np.array(axis))
    extent = nodes.add("Cast", size, to=TensorProto.FLOAT)
    cells = nodes.add("Range", np.array(0), size, np.array(1))
    broadcast_shape = np.array([-1, 1] if axis == 2 else [1, -1])
    positions = nodes.add("Reshape", nodes.add("Cast", cells, to=TensorProto.FLOAT), broadcast_shape)
    taps = np.indices((3, 3))[axis - 2].reshape(TAPS, 1, 1) - 1
    # The centre of cell p is at (2 p + 1) / size - 1.
    centres = nodes.add("Add", positions, (taps + 0.5).astype(np.float32))
    # The channels of `offset` are y and x of each tap in turn.
    own_offsets = nodes.add(
        "Slice", offset, np.array([axis - 2]), np.array([2 * TAPS]), np.array([1]), np.array([2])
    )
    sampled = nodes.add("Add", own_offsets, centres)
    factor = nodes.add("Div", np.array(2, np.float32), extent)
    scaled = nodes.add("Add", nodes.add("Mul", sampled, factor), np.array(-1, np.float32))
    return nodes.add("Unsqueeze", scaled, np.array([4]))
