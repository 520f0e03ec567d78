# SPDX-License-Identifier: Apache-2.0
"""Translation between published parameter keys and our parameter paths, in both directions.

A rule is a pair of templates, a published layer and our scope, for example ``layer{s}.{u}.conv{k}`` and
``res{s}/layer{u+1}/basicblock{k}/conv``. A field in braces matches a number; ``{u+1}`` in our scope is
``{u}`` of the published layer plus 1. The last part of our scope (conv, deconv or bn) determines the names of
the layer's parameters.
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
    """All rules of a network. At most one rule matches a key, and at most one matches a path."""

    rules: Rules

    def ours(self, key: str) -> str | None:
        """Published key -> our path, or None if no rule matches."""
        layer, _, leaf = key.rpartition(".")
        for theirs, ours in self._templates:
            if (numbers := theirs.numbers(layer)) is not None:
                known = LEAVES[ours.text.rpartition("/")[2]].get(leaf)
                return f"{ours.filled(numbers)}/{known}" if known else None
        return None

    def published(self, path: str) -> str | None:
        """Our path -> published key, or None if no rule matches."""
        layer, _, leaf = path.rpartition("/")
        for theirs, ours in self._templates:
            if (numbers := ours.numbers(layer)) is not None:
                return f"{theirs.filled(numbers)}.{PUBLISHED_LEAVES[layer.rpartition('/')[2]][leaf]}"
        return None

    def renamed(self, *replacements: tuple[str, str]) -> Names:
        """The rules with each (regular expression, replacement) applied to the published layers."""
        rules = []
        for theirs, ours in self.rules:
            for pattern, replacement in replacements:
                theirs = re.sub(pattern, replacement, theirs)
            rules.append((theirs, ours))
        return Names(tuple(rules))

    @cached_property
    def _templates(self) -> list[tuple[Template, Template]]:
        return [(Template(theirs), Template(ours)) for theirs, ours in self.rules]


@dataclass(frozen=True)
class Template:
    """Text with fields for numbers."""

    text: str

    def numbers(self, text: str) -> dict[str, int] | None:
        """The number for each field, without its addend, or None if the text does not match."""
        found = self._pattern.fullmatch(text)
        return {f: int(n) - self._added[f] for f, n in found.groupdict().items()} if found else None

    def filled(self, numbers: Mapping[str, int]) -> str:
        """The text with these numbers in its fields."""
        return FIELD.sub(lambda field: str(numbers[field[1]] + int(field[2] or 0)), self.text)

    @cached_property
    def _added(self) -> dict[str, int]:
        return {field[1]: int(field[2] or 0) for field in FIELD.finditer(self.text)}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        parts = re.split(r"(\{[^}]+\})", self.text)
        return re.compile("".join(rf"(?P<{p[1]}>\d+)" if p[:1] == "{" else re.escape(p) for p in parts))


def indexed(theirs: str, ours: str) -> Rules:
    """Rules of a convolution and its normalisation whose published names are 0 and 1."""
    return (f"{theirs}.0", f"{ours}/conv"), (f"{theirs}.1", f"{ours}/bn")


def named(theirs: str, ours: str) -> Rules:
    """Rules of a convolution and its normalisation whose published names are conv and bn."""
    return (f"{theirs}.conv", f"{ours}/conv"), (f"{theirs}.bn", f"{ours}/bn")


def prefixed(prefix: str, rules: Rules) -> Rules:
    """The rules with `prefix` before every published layer."""
    return tuple((prefix + theirs, ours) for theirs, ours in rules)


def per_stack(stacks: int) -> tuple[str, str]:
    """The published index and our scope of a layer that exists once in each stack.

    stacks: number of hourglasses. Our path has no scope for one stack. Other backbones (0) have neither.
    """
    if stacks > 1:
        return ".{s}", "stack{s+1}/"
    return (".0", "") if stacks else ("", "")
