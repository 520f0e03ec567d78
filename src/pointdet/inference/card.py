# SPDX-License-Identifier: Apache-2.0
"""The card of an exported network: what it says of itself, so that the file alone is enough to predict with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from pointdet.config.load import override, validate
from pointdet.config.schema import Config
from pointdet.data.augment import Colour
from pointdet.errors import PointDetError

FORMAT = 1
# network: normalised image (B, C, H, W) float32 -> maps. maps: BGR image (B, H, W, 3) of 0 to 255 -> maps.
# pipeline: as maps, and heatmaps are 0 where they are no peaks.
Contents = Literal["network", "maps", "pipeline"]
CONTENTS: tuple[Contents, ...] = get_args(Contents)
PRECISIONS = ("float", "half", "int8")


@dataclass(frozen=True)
class Card:
    """Stands in an .onnx file as its metadata and beside an .nnp file as .json."""

    config: Config
    class_names: tuple[str, ...]
    heatmaps: tuple[str, ...]  # those of its outputs that are heatmaps
    colour: Colour  # (C, 4), the normalisation
    contents: Contents = "maps"
    precision: str = "float"
    largest_side: int | None = None  # pixels, where corner pools see no farther

    def fields(self) -> dict[str, Any]:
        """Plain values for JSON. What stands in `config` as well is for programs that do not know PointDet."""
        config = self.config
        return {
            "format": FORMAT,
            "detector": config.detector.name,
            "class_names": list(self.class_names),
            "contents": self.contents,
            "precision": self.precision,
            "input": {
                "height": config.input.height,
                "width": config.input.width,
                "sides_multiple_of": config.model.granularity,
                "largest_side": self.largest_side,
                "channel_order": config.input.colour_order if self.contents == "network" else "bgr",
            },
            "colour": self.colour.tolist(),
            "heatmaps": list(self.heatmaps),
            "scales": list(config.test.scales),
            "threshold": config.test.vis_thresh,
            "config": config.model_dump(mode="json"),
        }

    @staticmethod
    def read(fields: Mapping[str, Any], path: Path) -> Card:
        """What `fields` gave. Errors: PointDetError where these are not the fields of a card."""
        if fields.get("format") != FORMAT:
            raise PointDetError(
                f"{path} was not saved by PointDet, or by another version; save it again with save_nnp.py"
            )
        return Card(
            validate(fields["config"], str(path)),
            tuple(fields["class_names"]),
            tuple(fields["heatmaps"]),
            np.asarray(fields["colour"], np.float32),
            fields["contents"],
            fields["precision"],
            fields["input"]["largest_side"],
        )

    def configured(self, overrides: list[str], path: Path) -> Config:
        """The configuration with `overrides`. Errors: PointDetError where the network itself would be another."""
        config = override(self.config, overrides)
        for key in ("model", "input.mean", "input.std", "input.colour_order"):
            if _value(config, key) != _value(self.config, key):
                raise PointDetError(
                    f"{key} is part of {path} and cannot be changed; export the checkpoint again"
                )
        if self.contents == "pipeline" and config.test.flip:
            raise PointDetError(
                f"{path} gives peaks, which cannot be averaged with the mirror image's; leave test.flip out, or save it "
                "with --contents maps"
            )
        return config

    def check(self, images: npt.NDArray[np.uint8], path: Path) -> None:
        """PointDetError where the network cannot take images (B, H, W, 3) of these sides."""
        for name, side in zip(("height", "width"), images.shape[1:3], strict=True):
            try:
                self.config.model.check_side(f"the {name} of its input", side)
            except ValueError as error:
                raise PointDetError(f"{path}: {error}") from None
            if self.largest_side is not None and side > self.largest_side:
                raise PointDetError(
                    f"{path} takes inputs of up to {self.largest_side} pixels, not {side}; save it with a larger "
                    "--input_h or --input_w"
                )

    def fed(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """BGR images (B, H, W, 3) as the network takes them: themselves, or normalised (B, C, H, W)."""
        if self.contents != "network":
            return np.ascontiguousarray(images)
        mixed = images.astype(np.float32) @ self.colour[:, :3].T + self.colour[:, 3]
        return np.ascontiguousarray(mixed.transpose(0, 3, 1, 2))


def _value(config: Config, key: str) -> object:
    section, _, name = key.partition(".")
    found = getattr(config, section)
    return getattr(found, name) if name else found
