# SPDX-License-Identifier: Apache-2.0
"""The exception that the programs print as one sentence without a traceback, and helpers for printed text."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence

MAX_LENGTH = 1200  # characters of a message; names and values in files can be of any length
KEPT = 400  # characters at the end of a longer message, where the fix is
# Errors of writing that are no mistake of the program: a full disk, a quota, a size limit, a disk without writing.
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
# C0 and C1 controls (escape sequences of terminals), line and paragraph separators, changes of the writing direction,
# and surrogates, which cannot be encoded.
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class PointDetError(Exception):
    """A mistake in the input or the environment. The message names the file or key, and the fix.

    As text it is one line: control characters are escaped, and the middle of a very long message is left out.
    """

    def __str__(self) -> str:
        text = super().__str__()
        if len(text) > MAX_LENGTH:
            text = f"{text[: MAX_LENGTH - KEPT]} ... {text[-KEPT:]}"
        return visible(text)


def visible(text: str) -> str:
    """The text on one line with its control characters escaped: a name in a file cannot change the terminal."""
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def visible_lines(text: str) -> str:
    """As `visible`, for a text of several lines."""
    return "\n".join(visible(line) for line in text.split("\n"))


def last_line(error: BaseException) -> str:
    """The last line of an error's message, where C++ libraries give the reason; its type if it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def first_few(names: Sequence[str], count: int, separator: str = ", ") -> str:
    """The first `count` names, and the number of the others: "a, b, and 3 more"."""
    rest = len(names) - count
    return separator.join([*names[:count], *([f"and {rest} more"] if rest > 0 else [])])
