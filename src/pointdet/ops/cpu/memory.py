# SPDX-License-Identifier: Apache-2.0
"""NumPy views of NNabla's arrays, and the work memory of each thread, which is kept between calls."""

from __future__ import annotations

import ctypes
import gc
import math
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import nnabla as nn
import numpy as np

from pointdet.arrays import Float32Array

# NNabla's compiled modules try relative imports first: at every access of an array, and several times in each
# function in Python, they look for these modules, which do not exist. With these entries the import ends at once, as
# the absolute import that follows would: a small layer takes half the time.
sys.modules |= {"nnabla.nnabla": nn, "nnabla.gc": gc}
sys.modules["nnabla.nnabla_ext"] = None  # type: ignore[assignment]

CPU = nn.Context(["cpu:float"], "CpuCachedArray", "")

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class _Thread(threading.local):
    """What each thread has for itself: NNabla runs without the GIL, so graphs run at the same time."""

    def __init__(self) -> None:
        self.recomputing = False
        # Shared by all layers: new memory costs more than the copy into it.
        self.space: dict[str, Float32Array] = {}
        self.zeros: Float32Array = np.zeros(0, np.float32)


_thread = _Thread()


def silent(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorator: no warnings of NumPy. A training that diverges is detected at its loss.

    `np.errstate` as a decorator would keep the former state of all threads in one place.
    """

    @wraps(function)
    def wrapper(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with np.errstate(over="ignore", invalid="ignore"):
            return function(*args, **kwargs)

    return wrapper


@contextmanager
def backward_pass() -> Iterator[None]:
    """Context of a backward pass: forward calls inside only recompute outputs (gradient checkpointing)."""
    _thread.recomputing = True
    try:
        yield
    finally:
        _thread.recomputing = False


def recomputing() -> bool:
    """Whether a forward call is the second one of the step, which must not update running statistics."""
    return _thread.recomputing


def workspace(name: str, *shape: int) -> Float32Array:
    """An array in memory that the thread keeps under this name, with undefined content."""
    space, size = _thread.space, math.prod(shape)
    array = space.get(name)
    if array is None or array.size < size:
        array = space[name] = np.empty(size, np.float32)
    return array[:size].reshape(shape)


def zeros(*shape: int) -> Float32Array:
    """An array of zeros that all layers share. Do not write to it."""
    size = math.prod(shape)
    if _thread.zeros.size < size:
        _thread.zeros = np.zeros(size, np.float32)
    return _thread.zeros[:size].reshape(shape)


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
