# SPDX-License-Identifier: Apache-2.0
"""The outputs of an exported network, compared with those of the network of the checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from pointdet.arrays import Image, Maps
from pointdet.model.exported import ExportedNetwork
from pointdet.model.metadata import Precision
from pointdet.model.network import Network

# The largest difference that is accepted, relative to the largest absolute value of an output, which counts as at
# least 1. float: other libraries round in another order. half, int8: 15 and 3 times what docs/performance.md shows.
BOUNDS: dict[Precision, float] = {"float": 1e-4, "half": 2e-2, "int8": 2.5e-1}


@dataclass
class Difference:
    """The largest difference of one output, and its largest value in the network of the checkpoint."""

    difference: float = 0.0
    largest: float = 0.0
    shape: tuple[int, ...] = ()  # of the last batch
    finite: bool = True

    def add(self, found: Maps, expected: Maps, name: str) -> None:
        self.shape = found[name].shape
        self.finite &= bool(np.isfinite(found[name]).all() and np.isfinite(expected[name]).all())
        self.largest = max(self.largest, float(np.abs(expected[name]).max()))
        # NaN stays NaN, which Python's max would drop if it came second.
        self.difference = float(np.maximum(self.difference, np.abs(found[name] - expected[name]).max()))

    def bound(self, relative: float) -> float:
        """The largest accepted difference."""
        return relative * max(1.0, self.largest)


@dataclass
class Comparison:
    """The comparison of all outputs over some images."""

    precision: Precision
    outputs: dict[str, Difference] = field(default_factory=dict)

    @property
    def fault(self) -> str | None:
        """Why the exported network is not the network of the checkpoint, or None if it is."""
        for name, output in self.outputs.items():
            if not output.finite:
                return f"its output {name} has values that are NaN or infinite"
            bound = output.bound(BOUNDS[self.precision])
            if not output.difference <= bound:
                return f"its output {name} differs by {output.difference:.1e}, the bound is {bound:.1e}"
        return None

    def table(self) -> str:
        """A line for each output."""
        lines = [
            f"largest difference after loading it again: {np.max([o.difference for o in self.outputs.values()]):.1e}"
        ]
        lines += [
            f"  {name:<20} {output.difference:.1e} of {output.largest:.1e}, bound {output.bound(BOUNDS[self.precision]):.1e}"
            for name, output in self.outputs.items()
        ]
        return "\n".join(lines)


def compare(
    found: ExportedNetwork, network: Network, images: Iterable[Image], precision: Precision
) -> Comparison:
    """Run both networks on batches of BGR images (B, H, W, 3) uint8.

    Of an export with peaks, the heatmaps are compared at their peaks only.
    """
    comparison = Comparison(precision)
    for batch in images:
        with np.errstate(invalid="ignore", over="ignore"):  # infinity minus infinity
            maps, expected = found(batch), dict(network(batch))
            if found.metadata.contents == "pipeline":
                expected |= {n: np.where(maps[n] > 0, expected[n], 0) for n in found.metadata.heatmaps}
            for name in expected:
                comparison.outputs.setdefault(name, Difference()).add(maps, expected, name)
    return comparison
