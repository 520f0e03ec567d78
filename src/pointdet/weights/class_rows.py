# SPDX-License-Identifier: Apache-2.0
"""Parameters with one row per class, and the rows that two lists of classes share, by name."""

from __future__ import annotations

from dataclasses import dataclass

from pointdet.arrays import Float32Array

PER_CLASS = ("hm_final/conv/W", "hm_final/conv/b", "heatmap_final/conv/W", "heatmap_final/conv/b")


def is_per_class(path: str) -> bool:
    """Whether the first axis of a parameter is the class."""
    return path.endswith(PER_CLASS)


@dataclass(frozen=True)
class Classes:
    """The class names of a file and of a network, in the order of their rows."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]

    @property
    def kept(self) -> tuple[str, ...]:
        """The classes of the network that the file has."""
        return tuple(name for name in self.ours if name in self.theirs)

    @property
    def new(self) -> tuple[str, ...]:
        """The classes of the network that the file does not have."""
        return tuple(name for name in self.ours if name not in self.theirs)

    @property
    def left_out(self) -> tuple[str, ...]:
        """The classes of the file that the network does not have."""
        return tuple(name for name in self.theirs if name not in self.ours)

    def fits(self, path: str, array: Float32Array, shape: tuple[int, ...]) -> bool:
        """Whether `array` of the file and a parameter of this shape have a row for each of their classes."""
        sizes = (*array.shape[:1], *shape[:1])
        return (
            is_per_class(path)
            and sizes == (len(self.theirs), len(self.ours))
            and array.shape[1:] == shape[1:]
        )

    def copy(self, array: Float32Array, into: Float32Array) -> None:
        """Copy the rows of the shared classes from `array` of the file; the other rows of `into` do not change."""
        for name in self.kept:
            into[self.ours.index(name)] = array[self.theirs.index(name)]
