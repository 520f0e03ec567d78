# SPDX-License-Identifier: Apache-2.0
"""Focal loss of the heatmap, L1 or smooth L1 of size and offset (Zhou et al., 2019, eq. 1 to 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import nnabla as nn
import nnabla.functions as F
import numpy as np

from pointdet.arrays import Batch, Float64Array
from pointdet.ops.losses import gather_cells, heatmap_focal, masked_l1, masked_smooth_l1


@dataclass(frozen=True)
class CtDetLoss:
    """Each term is averaged over stacks. Images of weight 0 are ignored."""

    heatmap_weight: float = 1.0
    size_weight: float = 0.1
    offset_weight: float = 1.0
    regression: Literal["l1", "smooth_l1"] = "l1"
    size_per_class: bool = False
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
        kernels: str = "nnabla",
    ) -> dict[str, nn.Variable]:
        """Terms "heatmap", "size", "offset" and "total", each one number."""
        mask = targets["mask"] * F.reshape(targets["weight"], (-1, 1))
        distance = masked_l1 if self.regression == "l1" else masked_smooth_l1
        terms: dict[str, list[nn.Variable]] = {"heatmap": [], "size": [], "offset": []}
        for outputs in stacks:
            heatmap = outputs["heatmap"], targets["heatmap"], targets["weight"], divisors["positives"]
            terms["heatmap"].append(heatmap_focal(*heatmap, kernels))
            for name in ("size", "offset"):
                gathered = gather_cells(outputs[name], targets["index"])
                if name == "size" and self.size_per_class:
                    gathered = _of_class(gathered, targets["label"])
                terms[name].append(distance(gathered, targets[name], mask, divisors["objects"]))
        means = {name: sum(values[1:], values[0]) * (1 / len(values)) for name, values in terms.items()}
        total = (
            self.heatmap_weight * means["heatmap"]
            + self.size_weight * means["size"]
            + self.offset_weight * means["offset"]
        )
        return {**means, "total": total}


def _of_class(sizes: nn.Variable, label: nn.Variable) -> nn.Variable:
    """Sizes of all classes (B, M, 2 C) and the labels (B, M) of the objects -> their sizes (B, M, 2)."""
    b, m, values = sizes.shape
    return F.gather(F.reshape(sizes, (b, m, values // 2, 2)), label, axis=2, batch_dims=2)
