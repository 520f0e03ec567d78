# SPDX-License-Identifier: Apache-2.0
"""Focal loss of the heatmap, L1 of size and offset (Zhou et al., 2019, eq. 1 to 4)."""

from __future__ import annotations

from dataclasses import dataclass

import nnabla as nn
import nnabla.functions as F
import numpy as np

from pointdet.arrays import Batch, Float64Array
from pointdet.ops.losses import gather_cells, heatmap_focal, masked_l1


@dataclass(frozen=True)
class CtDetLoss:
    """Each term is averaged over stacks. Images of weight 0 are ignored."""

    heatmap_weight: float = 1.0
    size_weight: float = 0.1
    offset_weight: float = 1.0
    divisors: tuple[str, ...] = ("positives", "objects")

    def count(self, batch: Batch) -> Float64Array:
        """Number of heatmap cells that are exactly 1, and of objects, in one batch."""
        weight = batch["weight"].astype(np.float64)
        return np.array(
            [np.sum(batch["positives"][:, 0] * weight), np.sum(batch["mask"].sum(axis=1) * weight)]
        )

    def __call__(
        self,
        stacks: list[dict[str, nn.Variable]],
        targets: dict[str, nn.Variable],
        divisors: dict[str, nn.Variable],
    ) -> dict[str, nn.Variable]:
        """Terms "heatmap", "size", "offset" and "total", each one number."""
        mask = targets["mask"] * F.reshape(targets["weight"], (-1, 1))
        terms: dict[str, list[nn.Variable]] = {"heatmap": [], "size": [], "offset": []}
        for outputs in stacks:
            terms["heatmap"].append(
                heatmap_focal(
                    outputs["heatmap"], targets["heatmap"], targets["weight"], divisors["positives"]
                )
            )
            for name in ("size", "offset"):
                gathered = gather_cells(outputs[name], targets["index"])
                terms[name].append(masked_l1(gathered, targets[name], mask, divisors["objects"]))
        means = {name: sum(values[1:], values[0]) * (1 / len(values)) for name, values in terms.items()}
        total = (
            self.heatmap_weight * means["heatmap"]
            + self.size_weight * means["size"]
            + self.offset_weight * means["offset"]
        )
        return {**means, "total": total}
