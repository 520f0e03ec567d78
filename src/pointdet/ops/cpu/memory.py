# SPDX-License-Identifier: Apache-2.0
"""NumPy views of NNabla's arrays, and work memory that is kept between calls."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import ContextDecorator, contextmanager
from typing import cast

import nnabla as nn
import numpy as np

from pointdet.arrays import Float32Array

# NNabla's compiled modules try relative imports first: every access of an array searches the disk for these
# modules, which do not exist. With an entry of None the import fails at once, and a small layer takes half
# the time.
for name in ("nnabla.nnabla", "nnabla.nnabla_ext", "nnabla.gc"):
    sys.modules[name] = None  # type: ignore[assignment]

CPU = nn.Context(["cpu:float"], "CpuCachedArray", "")

# A training that diverges is detected at its loss. Here it would only cause a warning for every layer.
silent = cast(ContextDecorator, np.errstate(over="ignore", invalid="ignore"))

_recomputing = False

# Shared by all layers: new memory costs more than the copy into it. One graph runs at a time.
_space: dict[str, Float32Array] = {}
_zeros: Float32Array = np.zeros(0, np.float32)


@contextmanager
def backward_pass() -> Iterator[None]:
    """Context of a backward pass: forward calls inside only recompute outputs (gradient checkpointing)."""
    global _recomputing
    _recomputing = True
    try:
        yield
    finally:
        _recomputing = False


def recomputing() -> bool:
    """Whether a forward call is the second one of the step, which must not update running statistics."""
    return _recomputing


def workspace(name: str, *shape: int) -> Float32Array:
    """An array in memory that is kept under this name, with undefined content."""
    size = int(np.prod(shape))
    if name not in _space or _space[name].size < size:
        _space[name] = np.empty(size, np.float32)
    return _space[name][:size].reshape(shape)


def zeros(*shape: int) -> Float32Array:
    """A shared array of zeros. Do not write to it."""
    global _zeros
    size = int(np.prod(shape))
    if _zeros.size < size:
        _zeros = np.zeros(size, np.float32)
    return _zeros[:size].reshape(shape)


def store(target: Float32Array, values: Float32Array, accumulate: bool) -> None:
    """target += values if `accumulate`, else target = values."""
    if accumulate:
        target += values
    else:
        target[...] = values


def data(variable: nn.Variable) -> Float32Array:
    return view(variable.data)


def grad(variable: nn.Variable) -> Float32Array:
    return view(variable.grad)


def view(array: nn.NdArray) -> Float32Array:
    """Values of an NNabla array, valid while the function runs. NNabla's `cast` takes ten times as long."""
    pointer = array.data_ptr(np.float32, CPU)
    values: Float32Array = np.frombuffer((ctypes.c_float * array.size).from_address(pointer), np.float32)
    return values.reshape(array.shape)
