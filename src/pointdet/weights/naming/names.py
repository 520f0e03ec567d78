# SPDX-License-Identifier: Apache-2.0
"""Published parameter names and ours as pairs of templates, which translate both ways.

A rule pairs a published layer with our scope of it: ``layer{s}.{u}.conv{k}`` and ``res{s}/layer{u+1}/basicblock{k}/conv``.
A field stands for a number; ``{u+1}`` on our side is one more than ``{u}`` on theirs. What a layer calls its parameters
follows from the end of our scope: conv, deconv or bn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

Rule = tuple[str, str]
Rules = tuple[Rule, ...]

LEAVES = {
    "conv": {"weight": "W", "bias": "b"},
    "deconv": {"weight": "W"},
    "bn": {"weight": "gamma", "bias": "beta", "running_mean": "mean", "running_var": "var"},
}
PUBLISHED_LEAVES = {kind: {ours: theirs for theirs, ours in LEAVES[kind].items()} for kind in LEAVES}
FIELD = re.compile(r"\{(\w)(?:\+(\d))?\}")


@dataclass(frozen=True)
class Names:
    """All rules of a network. No two of them meet the same key, nor the same path."""

    rules: Rules

    def ours(self, key: str) -> str | None:
        """Published key -> our path; None where we have no counterpart."""
        layer, _, leaf = key.rpartition(".")
        for theirs, ours in self._templates:
            if (numbers := theirs.numbers(layer)) is not None:
                known = LEAVES[ours.text.rpartition("/")[2]].get(leaf)
                return f"{ours.filled(numbers)}/{known}" if known else None
        return None

    def published(self, path: str) -> str | None:
        """Our path -> published key; None where there is no counterpart."""
        layer, _, leaf = path.rpartition("/")
        for theirs, ours in self._templates:
            if (numbers := ours.numbers(layer)) is not None:
                return f"{theirs.filled(numbers)}.{PUBLISHED_LEAVES[layer.rpartition('/')[2]][leaf]}"
        return None

    def respelt(self, *changes: tuple[str, str]) -> Names:
        """The same network in a dialect: regular expressions and what takes their places in the published layers."""
        rules = []
        for theirs, ours in self.rules:
            for pattern, replacement in changes:
                theirs = re.sub(pattern, replacement, theirs)
            rules.append((theirs, ours))
        return Names(tuple(rules))

    @cached_property
    def _templates(self) -> list[tuple[Template, Template]]:
        return [(Template(theirs), Template(ours)) for theirs, ours in self.rules]


@dataclass(frozen=True)
class Template:
    """Text with fields."""

    text: str

    def numbers(self, text: str) -> dict[str, int] | None:
        """What stands in the fields, or None for another text."""
        found = self._pattern.fullmatch(text)
        return {f: int(n) - self._added[f] for f, n in found.groupdict().items()} if found else None

    def filled(self, numbers: Mapping[str, int]) -> str:
        """The text with these numbers."""
        return FIELD.sub(lambda field: str(numbers[field[1]] + int(field[2] or 0)), self.text)

    @cached_property
    def _added(self) -> dict[str, int]:
        return {field[1]: int(field[2] or 0) for field in FIELD.finditer(self.text)}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        parts = re.split(r"(\{[^}]+\})", self.text)
        return re.compile("".join(rf"(?P<{p[1]}>\d+)" if p[:1] == "{" else re.escape(p) for p in parts))


def pair(theirs: str, ours: str) -> Rules:
    """A convolution and its normalisation that are numbered 0 and 1."""
    return (f"{theirs}.0", f"{ours}/conv"), (f"{theirs}.1", f"{ours}/bn")


def named(theirs: str, ours: str) -> Rules:
    """A convolution and its normalisation that are named conv and bn."""
    return (f"{theirs}.conv", f"{ours}/conv"), (f"{theirs}.bn", f"{ours}/bn")


def below(prefix: str, rules: Rules) -> Rules:
    """The rules of a module that is part of another one."""
    return tuple((prefix + theirs, ours) for theirs, ours in rules)


def per_stack(stacks: int) -> tuple[str, str]:
    """How a layer that every stack has is counted, theirs and ours: with one stack we do not, without hourglass nobody does."""
    if stacks > 1:
        return ".{s}", "stack{s+1}/"
    return (".0", "") if stacks else ("", "")
