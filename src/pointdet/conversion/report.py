# SPDX-License-Identifier: Apache-2.0
"""Compare the parameters of a file with those of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pointdet.weights.class_rows import is_per_class
from pointdet.weights.systems import UNUSED, Shapes

COUNTER = "num_batches_tracked"
Row = tuple[str, str]  # name, note


@dataclass(frozen=True)
class Report:
    """The result of the comparison.

    Every parameter of the network is in `kept`, `per_class`, `misshaped` or `missing`. Every other key of the
    file is in `unexpected` or `unused`.
    """

    kept: tuple[str, ...]  # our paths
    per_class: tuple[str, ...]  # our paths; the class names differ, so that rows are copied by name
    missing: tuple[Row, ...]
    misshaped: tuple[Row, ...]
    unexpected: tuple[Row, ...]
    unused: tuple[str, ...]  # keys that the published network does not use for its output either

    @property
    def misfits(self) -> int:
        """The number of parameters that do not fit. If it is 0, the file can be loaded completely."""
        return len(self.missing) + len(self.misshaped) + len(self.unexpected)

    def table(self) -> str:
        """The number of kept parameters, and one line for each other parameter."""
        counters = sum(key.endswith(COUNTER) for key in self.unused)
        lines = [f"  kept        {len(self.kept)} parameters"]
        lines += [f"  by class    {name}" for name in self.per_class]
        lines += [f"  not used    {key}" for key in self.unused if not key.endswith(COUNTER)]
        if counters:
            lines.append(f"  not used    {COUNTER} of {counters} layers")
        for title, rows in (
            ("missing", self.missing),
            ("misshaped", self.misshaped),
            ("unexpected", self.unexpected),
        ):
            lines += [f"  {title:<11} {name}  {note}" for name, note in rows]
        return "\n".join(lines)


def compare(
    file: Shapes,
    paths: Mapping[str, str],
    found: Shapes,
    network: Shapes,
    classes: tuple[int, int] | None = None,
) -> Report:
    """Compare a file and a network by the shapes of their parameters.

    file: shapes by published key. paths: published key -> our path. found: shapes by our path, of the file's
    parameters and of those that `System.complete` added. network: shapes by our path.
    classes: number of classes of the file and of the network, if their names differ.
    """
    kept, per_class, misshaped = [], [], []
    for path, shape in network.items():
        given = found.get(path)
        if given is not None and classes is not None and _by_class(path, given, shape, classes):
            per_class.append(path)
        elif given == shape:
            kept.append(path)
        elif given is not None:
            misshaped.append((path, f"{given} in the file, {shape} in the network"))
    missing = [(path, f"{shape}") for path, shape in network.items() if path not in found]
    others = [key for key in file if paths.get(key) not in network]
    unused = tuple(key for key in others if UNUSED.fullmatch(key))
    unexpected = [(key, f"{file[key]}") for key in others if not UNUSED.fullmatch(key)]
    return Report(tuple(kept), tuple(per_class), tuple(missing), tuple(misshaped), tuple(unexpected), unused)


def _by_class(path: str, given: tuple[int, ...], wanted: tuple[int, ...], classes: tuple[int, int]) -> bool:
    """Whether the parameter has one row per class, and the shapes differ at most in the number of classes."""
    return is_per_class(path) and (*given[:1], *wanted[:1]) == classes and given[1:] == wanted[1:]
