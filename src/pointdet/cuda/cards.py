# SPDX-License-Identifier: Apache-2.0
"""The choice of one GPU for each rank of a host, from --gpus, CUDA_VISIBLE_DEVICES and the driver."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from pointdet.cuda import driver
from pointdet.errors import PointDetError

VARIABLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Shown:
    """The GPUs that one rank is shown."""

    variable: str | None  # CUDA_VISIBLE_DEVICES; None if it is not set
    uuids: tuple[str, ...] | None  # from the driver; None if unknown

    @property
    def cards(self) -> tuple[str, ...] | None:
        """Entries for CUDA_VISIBLE_DEVICES: numbers, or UUIDs such as GPU-... and MIG-...; None if unknown.

        As CUDA does, the list ends before the first entry that names no card, for example -1.
        """
        if self.variable is None:
            return None if self.uuids is None else tuple(map(str, range(len(self.uuids))))
        found: list[str] = []
        for entry in map(str.strip, self.variable.split(",")):
            if not entry.startswith(("GPU-", "MIG-")) and not self._has_number(entry):
                break
            found.append(entry)
        return tuple(found)

    def _has_number(self, entry: str) -> bool:
        return entry.isdecimal() and (self.uuids is None or int(entry) < len(self.uuids))

    def describe(self) -> str:
        """Where the cards come from, for an error."""
        return "the driver" if self.variable is None else f"{VARIABLE}={self.variable}"


@cache
def shown() -> Shown:
    """What this process was shown at its start, before it set CUDA_VISIBLE_DEVICES to its own card."""
    return Shown(os.environ.get(VARIABLE), driver.uuids())


def choose(gpus: Sequence[int] | None, ranks: Sequence[Shown]) -> list[str]:
    """The entry of CUDA_VISIBLE_DEVICES for each rank of this host.

    Ranks that are shown the same cards share them: the first takes the first card, the second the second. If a
    scheduler shows each rank its own card, each rank takes that one.

    Args:
        gpus: numbers of --gpus, counted within the cards shown; None for all cards.
        ranks: what each rank of this host is shown, in the order of their local ranks.
    Errors: PointDetError if there are fewer cards than ranks, or if two ranks would use the same card. All ranks of
    the host raise the same error.
    """
    chosen: list[str] = []
    for local_rank, own in enumerate(ranks):
        numbers = _numbers(gpus, own, ranks.count(own))
        number = numbers[ranks[:local_rank].count(own)]
        chosen.append(str(number) if own.cards is None else own.cards[number])
    taken = [(own.uuids, card) for own, card in zip(ranks, chosen, strict=True)]
    for local_rank, card in enumerate(taken):
        if card in taken[:local_rank]:
            raise PointDetError(
                f"ranks {taken.index(card)} and {local_rank} of this host would both use GPU {card[1]}; "
                f"set {VARIABLE} to other cards, or to the same list for all ranks of the host"
            )
    return chosen


def _numbers(gpus: Sequence[int] | None, own: Shown, sharing: int) -> Sequence[int]:
    """The numbers of at least `sharing` cards, each of which is shown."""
    if own.cards == ():
        raise PointDetError(f"{own.describe()} shows no GPU; {driver.USE_THE_CPU}, or make one visible")
    count = None if own.cards is None else len(own.cards)
    if gpus is None:
        if count is not None and count < sharing:
            raise PointDetError(
                f"this host has {sharing} ranks, but {own.describe()} shows {_count(count, 'GPU')}; "
                f"start {_count(count, 'rank')} on each host, or make more GPUs visible"
            )
        return range(sharing)
    flag = f"--gpus {','.join(map(str, gpus))}"
    if len(gpus) < sharing:
        raise PointDetError(
            f"this host has {sharing} ranks, but {flag} names {_count(len(gpus), 'GPU')}; name one GPU for each rank, "
            f"such as --gpus {','.join(map(str, range(sharing)))}, or start fewer ranks"
        )
    if count is not None and max(gpus) >= count:
        raise PointDetError(
            f"{flag} names GPU {max(gpus)}, but {own.describe()} shows {_count(count, 'GPU')}; "
            f"the numbers count from 0 within these"
        )
    return gpus


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
