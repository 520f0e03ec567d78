# SPDX-License-Identifier: Apache-2.0
"""Unusable images, and objects that were left out, over all ranks."""

from __future__ import annotations

from pointdet.data.loader import Loader
from pointdet.data.records import warn
from pointdet.ranks.base import Ranks


class DataFaults:
    """Joins what the loaders of all ranks find. Every rank must make the same calls."""

    def __init__(self, loader: Loader, ranks: Ranks) -> None:
        self._loader, self._ranks = loader, ranks
        self._known: frozenset[int] = frozenset()  # of all ranks

    @property
    def unknown(self) -> int:
        """The number of unusable images of this rank that the others do not know."""
        return len(self._loader.faults - self._known)

    def share(self) -> None:
        """Tell all ranks the unusable images. Errors: PointDetError if they are too many."""
        parts = self._ranks.gather(self._loader.faults)
        self._known = self._ranks.broadcast(frozenset().union(*parts) if parts is not None else None)
        self._loader.check_faults(self._known)

    def warn_of_overflow(self, epoch: int) -> None:
        """Warn on rank 0 of objects that were left out in an epoch, counted from 1."""
        left_out: dict[str, int] = {}
        for part in self._ranks.gather(self._loader.take_overflow()) or []:
            left_out |= part
        what = f"objects of epoch {epoch} were left out: more in one image than detector.max_objects"
        warn(sum(left_out.values()), what, list(left_out))
