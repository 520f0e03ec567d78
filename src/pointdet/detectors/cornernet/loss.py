# SPDX-License-Identifier: Apache-2.0
"""Focal loss of heatmaps, pull and push of tags, smooth L1 of offsets (Law and Deng, 2018, eq. 1 to 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import nnabla as nn
import nnabla.functions as F
import numpy as np

from pointdet.arrays import Batch, Float64Array
from pointdet.config.schema import CornerDetectorConfig
from pointdet.detectors.cornernet.codec import CORNERS
from pointdet.ops.losses import gather_cells, heatmap_focal, masked_smooth_l1, pull_and_push


@dataclass(frozen=True)
class CornerNetLoss:
    """Each term is averaged over stacks. Images of weight 0 are ignored."""

    pull_weight: float = 0.5
    push_weight: float = 0.5
    offset_weight: float = 1.0
    embedding_loss: Literal["mean", "published"] = "mean"
    keypoints: tuple[str, ...] = CORNERS  # each has a heatmap and an offset; only corners have tags

    @staticmethod
    def of(detector: CornerDetectorConfig, keypoints: tuple[str, ...] = CORNERS) -> CornerNetLoss:
        """The loss of a configuration."""
        return CornerNetLoss(
            detector.pull_weight,
            detector.push_weight,
            detector.offset_weight,
            detector.embedding_loss,
            keypoints,
        )

    @property
    def divisors(self) -> tuple[str, ...]:
        """Names of the divisors that `count` returns."""
        return (*(f"{kind}_positives" for kind in self.keypoints), "objects", "images")

    def count(self, batch: Batch) -> Float64Array:
        """Number of cells of each heatmap that are exactly 1, of objects, and of images in one batch.

        The published pull and push are sums over a batch, averaged over batches: the batch then counts as one
        image.
        """
        weight = batch["weight"].astype(np.float64)
        images = weight.sum()
        return np.array(
            [
                *(np.sum(batch[f"{kind}_positives"][:, 0] * weight) for kind in self.keypoints),
                np.sum(batch["mask"].sum(axis=1) * weight),
                images if self.embedding_loss == "mean" else float(images > 0),
            ]
        )

    def __call__(
        self,
        stacks: list[dict[str, nn.Variable]],
        targets: dict[str, nn.Variable],
        divisors: dict[str, nn.Variable],
        kernels: str = "nnabla",
    ) -> dict[str, nn.Variable]:
        """Terms "heatmap", "pull", "push", "offset" and "total", each one number."""
        each = [self._stack_terms(outputs, targets, divisors, kernels) for outputs in stacks]
        means = {name: sum((s[name] for s in each[1:]), each[0][name]) * (1 / len(each)) for name in each[0]}
        total = (
            means["heatmap"]
            + self.pull_weight * means["pull"]
            + self.push_weight * means["push"]
            + self.offset_weight * means["offset"]
        )
        return {**means, "total": total}

    def _stack_terms(
        self,
        outputs: dict[str, nn.Variable],
        targets: dict[str, nn.Variable],
        divisors: dict[str, nn.Variable],
        kernels: str,
    ) -> dict[str, nn.Variable]:
        weight = targets["weight"]
        mask = targets["mask"] * F.reshape(weight, (-1, 1))
        heatmaps, offsets, tags = [], [], []
        for kind in self.keypoints:
            heatmap, index = f"{kind}_heatmap", targets[f"{kind}_index"]
            positives = divisors[f"{kind}_positives"]
            heatmaps.append(heatmap_focal(outputs[heatmap], targets[heatmap], weight, positives, kernels))
            offset = gather_cells(outputs[f"{kind}_offset"], index)
            offsets.append(masked_smooth_l1(offset, targets[f"{kind}_offset"], mask, divisors["objects"]))
            if kind in CORNERS:
                tags.append(F.reshape(gather_cells(outputs[f"{kind}_tag"], index), index.shape))
        pull, push = pull_and_push(tags[0], tags[1], mask)
        images = F.maximum_scalar(divisors["images"], 1)
        return {
            "heatmap": sum(heatmaps[1:], heatmaps[0]),
            "pull": F.sum(pull) / images,
            "push": F.sum(push) / images,
            "offset": sum(offsets[1:], offsets[0]),
        }
