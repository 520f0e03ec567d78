# SPDX-License-Identifier: Apache-2.0
"""What differs between the settings of a checkpoint and those of the run that resumes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def changed_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lines such as "train.num_epochs: 10 -> 20", for the keys that both configurations have."""
    old, new = dict(_flat(before)), dict(_flat(now))
    return [f"{key}: {old[key]} -> {new[key]}" for key in new if key in old and old[key] != new[key]]


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", list(value) if isinstance(value, tuple) else value


def same_place(update: int, before: tuple[int, int], now: tuple[int, int]) -> int:
    """The update of an epoch after as many images as `update` updates of the checkpoint.

    before, now: updates per epoch, and images per update. The end of an epoch stays its end. Otherwise at
    most one update is repeated.
    """
    if update == before[0]:
        return now[0]
    return min(update * before[1] // now[1], now[0] - 1)
