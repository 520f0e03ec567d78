# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation, sum and ReLU of maps (B, H, W, C) with oneDNN 3.x.

Layers of one geometry share their primitives, in all threads and networks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from ctypes import c_float, c_int, c_void_p
from functools import cached_property
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from pointdet.arrays import Float32Array
from pointdet.ops.cpu.onednn_library import (
    ADD,
    RELU,
    Handle,
    attributes,
    library,
    map_layout,
    plain_layout,
)
from pointdet.ops.cpu.onednn_primitive import Operand, Primitive

FORWARD_TRAINING, BACKWARD = 64, 128
RUNNING_STATISTICS, SCALE_AND_SHIFT, FUSED_RELU = 1, 2 | 4, 8  # flags
RELU_OF_RESULT = 0x100  # the algorithm of ReLU whose gradient needs only its result
# Indices of arguments.
SRC, SRC_1, DST, MEAN, VARIANCE, SCALE, SHIFT, WORKSPACE = 1, 2, 17, 49, 50, 51, 52, 64
DIFF_SRC, DIFF_DST, DIFF_SCALE, DIFF_SHIFT = 129, 145, 255, 256
WORKSPACE_QUERY = 135
CHANNELS = 8  # for other numbers than multiples of this the library has no fast functions

Made = TypeVar("Made", "OneDnnNormalisation", "OneDnnAddRelu")

_shared: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()
_sharing = threading.Lock()


def supports(channels: int) -> bool:
    """Whether the library has fast functions for this number of channels."""
    return channels % CHANNELS == 0


def shared(kind: Callable[..., Made], *arguments: Hashable) -> Made:
    """The object `kind(*arguments)`, which exists as long as a layer uses it."""
    with _sharing:
        made: Made = _shared.setdefault((kind, *arguments), kind(*arguments))
        return made


class OneDnnNormalisation:
    """Batch normalisation over all axes but the last, then ReLU if `relu`."""

    def __init__(self, shape: tuple[int, ...], eps: float, batch_stat: bool, relu: bool) -> None:
        self._map, self._vector = map_layout(shape), plain_layout((shape[3],))
        self._eps, self._batch_stat = c_float(eps), batch_stat
        self._flags = (
            SCALE_AND_SHIFT | (0 if batch_stat else RUNNING_STATISTICS) | (FUSED_RELU if relu else 0)
        )

    @property
    def mask_size(self) -> int:
        """Bytes of the array that tells which results are above 0. 0 without ReLU."""
        return library().size(self._mask)

    def forward(
        self,
        x: Float32Array,
        gamma: Float32Array,
        beta: Float32Array,
        mean: Float32Array,
        var: Float32Array,
        y: Float32Array,
        mask: Float32Array | None,
    ) -> None:
        """mean and var, (C,), are computed with batch statistics. mask: see `mask_size`; None without ReLU."""
        self._forward(x, gamma, beta, mean, var, y, *(() if mask is None else (mask,)))

    def backward(
        self,
        x: Float32Array,
        gamma: Float32Array,
        mean: Float32Array,
        var: Float32Array,
        mask: Float32Array | None,
        dy: Float32Array,
        dx: Float32Array,
        dgamma: Float32Array,
        dbeta: Float32Array,
    ) -> None:
        """The gradients dx, dgamma and dbeta. mean, var and mask are those of `forward`."""
        self._backward(x, gamma, mean, var, dy, dx, dgamma, dbeta, *(() if mask is None else (mask,)))

    @cached_property
    def _description(self) -> Handle:
        create = "dnnl_batch_normalization_forward_primitive_desc_create"
        settings = (self._eps, c_int(self._flags), attributes())
        ends = (library().engine, c_int(FORWARD_TRAINING), self._map, self._map)
        return Handle("primitive_desc", create, *ends, *settings)

    @property
    def _mask(self) -> c_void_p:
        return library().layout(self._description, WORKSPACE_QUERY)

    @cached_property
    def _forward(self) -> Primitive:
        computed = self._batch_stat
        operands = [
            Operand(SRC, self._map),
            Operand(SCALE, self._vector),
            Operand(SHIFT, self._vector),
            Operand(MEAN, self._vector, written=computed),
            Operand(VARIANCE, self._vector, written=computed),
            Operand(DST, self._map, written=True),
        ]
        if self.mask_size:
            operands.append(Operand(WORKSPACE, self._mask, written=True))
        return Primitive(self._description, operands)

    @cached_property
    def _backward(self) -> Primitive:
        create = "dnnl_batch_normalization_backward_primitive_desc_create"
        settings = (self._eps, c_int(self._flags), self._description, attributes())
        maps = (library().engine, c_int(BACKWARD), self._map, self._map, self._map)
        operands = [
            Operand(SRC, self._map),
            Operand(SCALE, self._vector),
            Operand(MEAN, self._vector),
            Operand(VARIANCE, self._vector),
            Operand(DIFF_DST, self._map),
            Operand(DIFF_SRC, self._map, written=True),
            Operand(DIFF_SCALE, self._vector, written=True),
            Operand(DIFF_SHIFT, self._vector, written=True),
        ]
        if self.mask_size:
            operands.append(Operand(WORKSPACE, self._mask))
        return Primitive(Handle("primitive_desc", create, *maps, *settings), operands)


class OneDnnAddRelu:
    """max(0, a + b) of two maps, and the gradient of ReLU from its result."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._map = map_layout(shape)

    def forward(self, a: Float32Array, b: Float32Array) -> None:
        """Replace a."""
        self._forward(a, b, a)

    def backward(self, y: Float32Array, dy: Float32Array, dx: Float32Array) -> None:
        """dx = dy where y > 0, else 0."""
        self._backward(y, dy, dx)

    @cached_property
    def _forward(self) -> Primitive:
        maps = (library().engine, c_int(ADD), self._map, self._map, self._map)
        create = ("dnnl_binary_primitive_desc_create", *maps, attributes(RELU))
        operands = [Operand(SRC, self._map), Operand(SRC_1, self._map), Operand(DST, self._map, written=True)]
        return Primitive(Handle("primitive_desc", *create), operands)

    @cached_property
    def _backward(self) -> Primitive:
        engine, algorithm, constants = library().engine, c_int(RELU_OF_RESULT), (c_float(0), c_float(0))
        hint = Handle(
            *("primitive_desc", "dnnl_eltwise_forward_primitive_desc_create", engine),
            *(c_int(FORWARD_TRAINING), algorithm, self._map, self._map, *constants, attributes()),
        )
        description = Handle(
            *("primitive_desc", "dnnl_eltwise_backward_primitive_desc_create", engine),
            *(algorithm, self._map, self._map, self._map, *constants, hint, attributes()),
        )
        operands = [
            Operand(DST, self._map),
            Operand(DIFF_DST, self._map),
            Operand(DIFF_SRC, self._map, written=True),
        ]
        return Primitive(description, operands)
