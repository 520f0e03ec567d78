# SPDX-License-Identifier: Apache-2.0
"""What became of every parameter of a file and of a network, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pointdet.weights.systems import DEAD, Shapes

COUNTER = "num_batches_tracked"
Row = tuple[str, str]  # a name, and what there is to say


@dataclass(frozen=True)
class Report:
    """Every key of the file is in `kept`, `per_class`, `misshaped`, `unexpected` or `unused`, every parameter too or is
    in `missing`."""

    kept: tuple[str, ...]  # our paths
    per_class: tuple[str, ...]  # our paths; the network has other classes than the file
    missing: tuple[Row, ...]
    misshaped: tuple[Row, ...]
    unexpected: tuple[Row, ...]
    unused: tuple[str, ...]  # keys that the published network does not use either

    @property
    def misfits(self) -> int:
        """How many parameters keep the file from being loaded as a whole."""
        return len(self.missing) + len(self.misshaped) + len(self.unexpected)

    def table(self) -> str:
        """Counts, and then a line for each parameter that is not simply kept."""
        counters = sum(key.endswith(COUNTER) for key in self.unused)
        lines = [f"  kept        {len(self.kept)} parameters"]
        lines += [f"  new classes {name}" for name in self.per_class]
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
    file: Shapes, paths: Mapping[str, str], found: Shapes, network: Shapes, classes: tuple[int, int]
) -> Report:
    """A file and a network, by their shapes.

    file: by its own keys; paths: key -> our path; found: by our path, the file's and what goes without saying.
    classes: of the file, of the network.
    """
    kept, per_class, misshaped = [], [], []
    for path, shape in network.items():
        if (given := found.get(path)) == shape:
            kept.append(path)
        elif given is not None and depends_on_classes(path, given, shape, classes):
            per_class.append(path)
        elif given is not None:
            misshaped.append((path, f"{given} in the file, {shape} in the network"))
    missing = [(path, f"{shape}") for path, shape in network.items() if path not in found]
    strangers = [key for key in file if paths.get(key) not in network]
    unused = tuple(key for key in strangers if DEAD.fullmatch(key))
    unexpected = [(key, f"{file[key]}") for key in strangers if not DEAD.fullmatch(key)]
    return Report(tuple(kept), tuple(per_class), tuple(missing), tuple(misshaped), tuple(unexpected), unused)


def depends_on_classes(
    path: str, given: tuple[int, ...], wanted: tuple[int, ...], classes: tuple[int, int]
) -> bool:
    """Whether the parameter has a row for each class, and the numbers of classes are all that differs."""
    heatmap = path.endswith(
        ("hm_final/conv/W", "hm_final/conv/b", "heatmap_final/conv/W", "heatmap_final/conv/b")
    )
    return heatmap and (*given[:1], *wanted[:1]) == classes and given[1:] == wanted[1:]
