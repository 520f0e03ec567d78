# SPDX-License-Identifier: Apache-2.0
"""The text of error messages: one line without control characters, and its helpers."""

import pytest

from pointdet.errors import MAX_LENGTH, PointDetError, first_few, last_line, visible, visible_lines


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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("a\nb\tc\rd\x00", r"a\nb\tc\rd\x00"),
        ("\x9b2J", r"\x9b2J"),  # the same escape sequence as one character
        ("ab\u202edc", r"ab\u202edc"),
        ("na\udce9ve", r"na\udce9ve"),
        ("Größe 犬 عربي 👩\u200d🚀", "Größe 犬 عربي 👩\u200d🚀"),
    ],
)
def test_control_characters_are_shown_escaped(text, shown):
    assert visible(text) == shown == str(PointDetError(text))
    assert visible_lines(f"{text}\n{text}") == "\n".join(map(visible, f"{text}\n{text}".split("\n")))


def test_a_very_long_message_keeps_its_ends():
    message = str(PointDetError(f"x.json {'z' * 10_000}; export the file again"))
    assert message.startswith("x.json z") and message.endswith("z; export the file again")
    assert len(message) < MAX_LENGTH + 10
