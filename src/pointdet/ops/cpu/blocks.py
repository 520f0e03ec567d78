# SPDX-License-Identifier: Apache-2.0
"""Many arrays of NNabla as one flat array, read and written in blocks that fit the cache.

A network has several hundred small parameters. One call of NumPy for each of them costs more than the work on
its values, so a block holds many of them.

Views of one NNabla array (`NdArray.narrow`) would need no copies, but each access of such a view visits all
others: 23 us with 300 of them, 15 ms for a training step of DLAv0-34.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from operator import attrgetter
from typing import Literal

import nnabla as nn
import numpy as np

from pointdet.arrays import Arrays, Float32Array
from pointdet.ops.cpu.memory import CPU, view, workspace

BLOCK = 1 << 15  # values of a block: 128 KiB


@dataclass(frozen=True)
class Block:
    """A part of the flat array: some whole arrays, or a part of one large array."""

    place: slice  # in the flat array
    arrays: range  # numbers of the arrays
    part: slice  # of the array, if it is one

    @property
    def joined(self) -> bool:
        """Whether it holds several arrays, so that its values are a copy."""
        return len(self.arrays) > 1


class Layout:
    """The order of named arrays in a flat array, the smallest first, and its blocks."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = dict(sorted(shapes.items(), key=lambda item: math.prod(item[1])))
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        ends = list(accumulate(sizes))
        self.places = {
            name: slice(end - size, end) for name, size, end in zip(self.shapes, sizes, ends, strict=True)
        }
        self.size = sum(sizes)
        self.blocks = list(_blocks(sizes))

    def named(self, flat: Float32Array) -> Arrays:
        """Views of a flat array, by name and with the shape of the array."""
        return {name: flat[place].reshape(self.shapes[name]) for name, place in self.places.items()}


def _blocks(sizes: list[int]) -> Iterator[Block]:
    start = first = 0
    while first < len(sizes):
        stop, filled = first + 1, sizes[first]
        while stop < len(sizes) and filled + sizes[stop] <= BLOCK:
            filled += sizes[stop]
            stop += 1
        for begin in range(0, filled, BLOCK):
            end = min(begin + BLOCK, filled)
            yield Block(slice(start + begin, start + end), range(first, stop), slice(begin, end))
        start, first = start + filled, stop


class Views:
    """The values or the gradients of variables in the order of a layout, while their memory may move.

    NNabla moves the memory of an array when its type changes, and a variable can get another array. A view is
    made again when that has happened.
    """

    def __init__(
        self, layout: Layout, variables: Mapping[str, nn.Variable], kind: Literal["data", "grad"]
    ) -> None:
        self._variables = [variables[name] for name in layout.shapes]
        self._array = attrgetter(kind)
        self._pointers = [0] * len(self._variables)
        self._flat = [np.zeros(0, np.float32)] * len(self._variables)

    def refresh(self) -> None:
        """Look where the values are. Until the next call NNabla must not move them."""
        for number, variable in enumerate(self._variables):
            array = self._array(variable)
            pointer = array.data_ptr(np.float32, CPU)
            if pointer != self._pointers[number]:
                self._pointers[number] = pointer
                self._flat[number] = view(array).reshape(-1)

    def read(self, block: Block, name: str) -> Float32Array:
        """The values of a block: a view, or if it is `joined`, a copy in the work memory of this name."""
        if not block.joined:
            return self._flat[block.arrays.start][block.part]
        parts = self._flat[block.arrays.start : block.arrays.stop]
        return np.concatenate(parts, out=workspace(name, block.part.stop))

    def write(self, block: Block, values: Float32Array) -> None:
        """Write back what `read` returned. Needed only if the block is `joined`."""
        start = 0
        for array in self._flat[block.arrays.start : block.arrays.stop]:
            array[...] = values[start : start + len(array)]
            start += len(array)
