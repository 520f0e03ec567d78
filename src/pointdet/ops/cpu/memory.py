# SPDX-License-Identifier: Apache-2.0
"""NNabla's arrays as NumPy sees them, and work space that is kept between calls."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import ContextDecorator, contextmanager
from typing import cast

import nnabla as nn
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# NNabla's compiled modules import the old way: every access of an array first looks through the disk for these, which
# never were. Told once that they do not exist, Python answers at once; a small layer takes half the time.
for name in ("nnabla.nnabla", "nnabla.nnabla_ext", "nnabla.gc"):
    sys.modules[name] = None  # type: ignore[assignment]

CPU = nn.Context(["cpu:float"], "CpuCachedArray", "")

# A diverging training is noticed at its loss; here it would only be a warning for every layer.
silent = cast(ContextDecorator, np.errstate(over="ignore", invalid="ignore"))

_recomputing = False

# Shared by all layers: fresh memory costs more than the copy into it. One graph runs at a time.
_space: dict[str, Floats] = {}
_zeros: Floats = np.zeros(0, np.float32)


@contextmanager
def backward_pass() -> Iterator[None]:
    """Around the backward pass of a graph: a function that runs forward in it only recomputes what was cleared."""
    global _recomputing
    _recomputing = True
    try:
        yield
    finally:
        _recomputing = False


def recomputing() -> bool:
    """Whether this forward pass of a function is its second one in a step, so that it must change no statistics."""
    return _recomputing


def workspace(name: str, *shape: int) -> Floats:
    """An array of kept memory; its content is garbage."""
    size = int(np.prod(shape))
    if name not in _space or _space[name].size < size:
        _space[name] = np.empty(size, np.float32)
    return _space[name][:size].reshape(shape)


def zeros(*shape: int) -> Floats:
    """An array of zeros that nobody may write to."""
    global _zeros
    size = int(np.prod(shape))
    if _zeros.size < size:
        _zeros = np.zeros(size, np.float32)
    return _zeros[:size].reshape(shape)


def store(target: Floats, values: Floats, add: bool) -> None:
    """target (+)= values: a gradient, added to what is there already or in its place."""
    if add:
        target += values
    else:
        target[...] = values


def data(variable: nn.Variable) -> Floats:
    return view(variable.data)


def grad(variable: nn.Variable) -> Floats:
    return view(variable.grad)


def view(array: nn.NdArray) -> Floats:
    """The values of NNabla's array, for as long as its function runs. Its own `cast` takes ten times as long."""
    pointer = array.data_ptr(np.float32, CPU)
    values: Floats = np.frombuffer((ctypes.c_float * array.size).from_address(pointer), np.float32)
    return values.reshape(array.shape)
