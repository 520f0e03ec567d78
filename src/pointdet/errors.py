# SPDX-License-Identifier: Apache-2.0
"""The exception that the programs print as one sentence without a traceback, and helpers for its text."""

from __future__ import annotations

from collections.abc import Sequence


class PointDetError(Exception):
    """A mistake in the input or the environment. The message names the file or key, and the fix."""


def last_line(error: BaseException) -> str:
    """The last line of an error's message, where C++ libraries give the reason; its type if it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def first_few(names: Sequence[str], count: int, separator: str = ", ") -> str:
    """The first `count` names, and the number of the others: "a, b, and 3 more"."""
    rest = len(names) - count
    return separator.join([*names[:count], *([f"and {rest} more"] if rest > 0 else [])])
