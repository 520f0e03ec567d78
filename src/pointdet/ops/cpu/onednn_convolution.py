# SPDX-License-Identifier: Apache-2.0
"""Convolution primitives with oneDNN 3.x, if its library is installed (the extra `onednn`).

Layers of one geometry share their primitives, in all threads and networks.
"""

from __future__ import annotations

import math
import threading
from ctypes import c_int
from functools import cached_property
from weakref import WeakValueDictionary

import numpy as np

from pointdet.arrays import Float32Array
from pointdet.ops.cpu.memory import workspace
from pointdet.ops.cpu.onednn_library import (
    ADD,
    MAXIMUM,
    MULTIPLY,
    Handle,
    any_layout,
    attributes,
    dimensions,
    layout_of,
    library,
    map_layout,
    operand_of,
    plain_layout,
)
from pointdet.ops.cpu.onednn_primitive import Operand, Primitive
from pointdet.ops.cpu.primitives import ConvolutionShape, Epilogue

ZERO = np.zeros(1, np.float32)
DIRECT = 1  # the algorithm
FORWARD_TRAINING = 64
# Index of an argument, and the query for its memory layout.
SRC, WEIGHTS, DST = (1, 129), (33, 131), (17, 133)
DIFF_SRC, DIFF_WEIGHTS, DIFF_DST = (129, 130), (161, 132), (145, 134)
# The gradient of the weights is faster in blocks of channels, including the conversion of x and y to blocks, if y has
# more than this number of cells times channels (those of x or y, whichever has fewer): 1.3 to 2.6 times on AVX2.
BLOCKED = 25_000

_shared: WeakValueDictionary[ConvolutionShape, OneDnnConvolution] = WeakValueDictionary()
_sharing = threading.Lock()


def shared_convolution(shape: ConvolutionShape) -> OneDnnConvolution:
    """The primitives of this geometry, which exist as long as a layer uses them."""
    with _sharing:
        return _shared.setdefault(shape, OneDnnConvolution(shape))


class OneDnnConvolution:
    """`ConvolutionPrimitives` with oneDNN. Each primitive is created at its first use."""

    def __init__(self, shape: ConvolutionShape) -> None:
        self._shape = s = shape
        self._dims: dict[str, tuple[int, ...]] = {
            "x": (s.batch, s.channels, s.height, s.width),
            "y": (s.batch, s.out_channels, s.out_height, s.out_width),
            "w": (s.out_channels, s.channels // s.groups, s.kernel, s.kernel),
        }
        if s.groups > 1:
            self._dims["w"] = (s.groups, s.out_channels // s.groups, *self._dims["w"][1:])
        self._forward: dict[tuple[bool, ...], Primitive] = {}

    def forward(self, x: Float32Array, w: Float32Array, y: Float32Array, after: Epilogue) -> None:
        operands = (after.scale, after.shift, after.shortcut)
        kind = (*(operand is not None for operand in operands), after.relu)
        if kind not in self._forward:
            self._forward[kind] = self._make_forward(*kind)
        given = (operand for operand in operands if operand is not None)
        self._forward[kind](x, w, y, *given, *([ZERO] if after.relu else []))

    def backward_data(self, w: Float32Array, dy: Float32Array, dx: Float32Array, accumulate: bool) -> None:
        _add_or_replace(self._backward_data, w, dy, dx, accumulate)

    def backward_weights(self, x: Float32Array, dy: Float32Array, dw: Float32Array, accumulate: bool) -> None:
        _add_or_replace(self._backward_weights, x, dy, dw, accumulate)

    def _make_forward(self, scale: bool, shift: bool, shortcut: bool, relu: bool) -> Primitive:
        vector = plain_layout((1, self._shape.out_channels, 1, 1))
        arrays = [(MULTIPLY, vector)] * scale + [(ADD, vector)] * shift + [(ADD, self._map("y"))] * shortcut
        # Not RELU: the library loses the memory of that for each primitive, 35 KB.
        arrays += [(MAXIMUM, plain_layout((1, 1, 1, 1)))] * relu
        description = self._describe("forward", *self._layouts(), attributes(*arrays))
        operands = [Operand(operand_of(i), layout) for i, (_, layout) in enumerate(arrays)]
        return Primitive(
            description,
            [
                self._operand(description, SRC, "x"),
                self._operand(description, WEIGHTS, "w"),
                self._operand(description, DST, "y", written=True),
                *operands,
            ],
        )

    @cached_property
    def _backward_data(self) -> Primitive:
        x, w, _, y = self._layouts()
        hint = self._describe("forward", x, w, None, y, attributes())
        description = self._describe("backward_data", x, w, y, attributes(), hint=hint)
        return Primitive(
            description,
            [
                self._operand(description, WEIGHTS, "w"),
                self._operand(description, DIFF_DST, "y"),
                self._operand(description, DIFF_SRC, "x", written=True),
            ],
        )

    @cached_property
    def _backward_weights(self) -> Primitive:
        layouts = [any_layout(self._dims[name]) for name in "xwy"] if self._in_blocks else None
        x, w, y = layouts or (self._map("x"), any_layout(self._dims["w"]), self._map("y"))
        hint = self._describe("forward", x, w, None, y, attributes())
        description = self._describe("backward_weights", x, w, None, y, attributes(), hint=hint)
        return Primitive(
            description,
            [
                self._operand(description, SRC, "x"),
                self._operand(description, DIFF_DST, "y"),
                self._operand(description, DIFF_WEIGHTS, "w", written=True),
            ],
        )

    @property
    def _in_blocks(self) -> bool:
        """Whether the gradient of the weights is computed in blocks of channels."""
        s = self._shape
        channels = min(s.channels, s.out_channels)
        return s.kernel > 1 and s.groups == 1 and s.out_height * s.out_width * channels > BLOCKED

    def _layouts(self) -> tuple[Handle, Handle, None, Handle]:
        """Of x, weights, bias and y."""
        return self._map("x"), any_layout(self._dims["w"]), None, self._map("y")

    def _map(self, name: str) -> Handle:
        n, c, height, width = self._dims[name]
        return map_layout((n, height, width, c))

    def _describe(self, direction: str, *arguments: Handle | None, hint: Handle | None = None) -> Handle:
        """The description of a primitive. A backward primitive needs that of the forward one as a hint."""
        s = self._shape
        *layouts, after = arguments
        kind = () if hint else (c_int(FORWARD_TRAINING),)
        # Strides, dilations (0 means none), paddings before and after.
        parameters = [dimensions((n, n)) for n in (s.stride, s.dilation - 1, s.pad, s.pad)]
        return Handle(
            *("primitive_desc", f"dnnl_convolution_{direction}_primitive_desc_create", library().engine),
            *(*kind, c_int(DIRECT), *layouts, *parameters, *((hint,) if hint else ()), after),
        )

    def _operand(
        self, description: Handle, argument: tuple[int, int], name: str, written: bool = False
    ) -> Operand:
        index, query = argument
        plain = self._weights if name == "w" else self._map(name)
        return Operand(index, plain, description, query, written)

    @cached_property
    def _weights(self) -> Handle:
        """The layout of the parameter."""
        dims = self._dims["w"]
        if not self._shape.weights_last:
            return plain_layout(dims)
        *outputs, channels, kernel, _ = dims
        taps = (1, kernel * channels, channels)  # steps of channel, row and column
        sizes = [*outputs, kernel * kernel * channels]
        return layout_of(dims, (*(math.prod(sizes[i + 1 :]) for i in range(len(outputs))), *taps))


def _add_or_replace(
    primitive: Primitive, first: Float32Array, second: Float32Array, result: Float32Array, accumulate: bool
) -> None:
    if not accumulate:
        primitive(first, second, result)
        return
    target = workspace("sum", *result.shape)
    primitive(first, second, target)
    result += target
