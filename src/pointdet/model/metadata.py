# SPDX-License-Identifier: Apache-2.0
"""The metadata of an exported network. With them the file alone is enough for prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from pointdet.arrays import Image
from pointdet.config.load import override, validate
from pointdet.config.schema import Config
from pointdet.data.augment import Colour
from pointdet.errors import PointDetError

FORMAT = 1
# network: normalised image (B, C, H, W) float32 -> maps. maps: BGR image (B, H, W, 3), 0 to 255 -> maps.
# pipeline: as maps, and the heatmaps are 0 except at their peaks.
Contents = Literal["network", "maps", "pipeline"]
CONTENTS: tuple[Contents, ...] = get_args(Contents)
PRECISIONS = ("float", "half", "int8")


@dataclass(frozen=True)
class Metadata:
    """An .onnx file has it in its metadata properties, an .nnp file in a .json file of the same name."""

    config: Config
    class_names: tuple[str, ...]
    heatmaps: tuple[str, ...]  # names of the outputs that are heatmaps
    colour: Colour  # (C, 4), the normalisation
    contents: Contents = "maps"
    precision: str = "float"
    largest_side: int | None = None  # of the input, pixels: the exported range of corner pooling; None: any

    def fields(self) -> dict[str, Any]:
        """Plain values for JSON. Some repeat values of `config`, for programs that do not use PointDet."""
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
    def read(fields: Mapping[str, Any], path: Path) -> Metadata:
        """The inverse of `fields()`. Errors: PointDetError for other fields."""
        if fields.get("format") != FORMAT:
            raise PointDetError(
                f"{path} was not saved by PointDet, or by another version; save it again with save_nnp.py"
            )
        return Metadata(
            validate(fields["config"], str(path)),
            tuple(fields["class_names"]),
            tuple(fields["heatmaps"]),
            np.asarray(fields["colour"], np.float32),
            fields["contents"],
            fields["precision"],
            fields["input"]["largest_side"],
        )

    def configured(self, overrides: list[str], path: Path) -> Config:
        """The configuration with `overrides`. Errors: PointDetError if they change the network itself."""
        config = override(self.config, overrides)
        for key in ("model", "input.mean", "input.std", "input.colour_order"):
            if _value(config, key) != _value(self.config, key):
                raise PointDetError(
                    f"{key} is part of {path} and cannot be changed; export the checkpoint again"
                )
        if self.contents == "pipeline" and config.test.flip:
            raise PointDetError(
                f"{path} outputs peaks, which cannot be averaged with those of the mirror image; set "
                "test.flip=false, or export it with --contents maps"
            )
        return config

    def check(self, images: Image, path: Path) -> None:
        """Errors: PointDetError if the network does not take images (B, H, W, 3) of this height and width."""
        for name, side in zip(("height", "width"), images.shape[1:3], strict=True):
            try:
                self.config.model.check_side(f"the {name} of its input", side)
            except ValueError as error:
                raise PointDetError(f"{path}: {error}") from None
            if self.largest_side is not None and side > self.largest_side:
                raise PointDetError(
                    f"{path} takes inputs of up to {self.largest_side} pixels, not {side}; export it with a "
                    "larger --input_h or --input_w"
                )

    def network_input(self, images: Image) -> npt.NDArray[Any]:
        """BGR images (B, H, W, 3) uint8 -> the input of the network.

        It is the images themselves, or with contents "network" the normalised images (B, C, H, W) float32.
        """
        if self.contents != "network":
            return np.ascontiguousarray(images)
        normalised = images.astype(np.float32) @ self.colour[:, :3].T + self.colour[:, 3]
        return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))


def _value(config: Config, key: str) -> object:
    """The section of that name, or the value of "section.key"."""
    section, _, name = key.partition(".")
    found = getattr(config, section)
    return getattr(found, name) if name else found
