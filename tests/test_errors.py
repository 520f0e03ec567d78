# SPDX-License-Identifier: Apache-2.0
"""Helpers for the text of error messages."""

import pytest

from pointdet.errors import first_few, last_line


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("one line"), "one line"),
        (RuntimeError("value error in setup\nfile.cpp:12\nFailed `n > 0`: n is 0.\n\n  "), "Failed `n > 0`: n is 0."),
        (OSError(2, "No such file or directory"), "[Errno 2] No such file or directory"),
        (KeyError("a"), "'a'"),
        (MemoryError(), "MemoryError"),
        (ValueError(" \n\t\n"), "ValueError"),
    ],
)  # fmt: skip
def test_last_line(error, text):
    assert last_line(error) == text


@pytest.mark.parametrize(
    ("names", "count", "text"),
    [
        ([], 3, ""),
        (["a"], 3, "a"),
        (["a", "b", "c"], 3, "a, b, c"),
        (["a", "b", "c", "d"], 3, "a, b, c, and 1 more"),
        (("a", "b", "c", "d", "e"), 2, "a, b, and 3 more"),
    ],
)
def test_first_few(names, count, text):
    assert first_few(names, count) == text


def test_first_few_with_another_separator():
    assert first_few(["a", "b", "c"], 2, "\n  ") == "a\n  b\n  and 1 more"
