# SPDX-License-Identifier: Apache-2.0
"""The metadata of an exported network. With them the file alone is enough for prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pointdet.arrays import Image
from pointdet.config.load import override, validate
from pointdet.config.schema import Config
from pointdet.data.augment import Colour
from pointdet.errors import PointDetError

FORMAT: Literal[1] = 1
# network: normalised image (B, C, H, W) float32 -> maps. maps: BGR image (B, H, W, 3), 0 to 255 -> maps.
# pipeline: as maps, and the heatmaps are 0 except at their peaks.
Contents = Literal["network", "maps", "pipeline"]
CONTENTS: tuple[Contents, ...] = get_args(Contents)
Precision = Literal["float", "half", "int8"]


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
    def read(text: str, path: Path) -> Metadata:
        """The inverse of `fields()`, from JSON. Errors: PointDetError for other text, which names `path`."""
        try:
            _Format.model_validate_json(text)
            read = _Fields.model_validate_json(text)
        except ValidationError as error:
            raise PointDetError(_message(error, path)) from None
        return Metadata(
            validate(read.config, str(path)),
            read.class_names,
            read.heatmaps,
            np.asarray(read.colour, np.float32),
            read.contents,
            read.precision,
            read.input.largest_side,
        )

    def check_outputs(self, channels: Mapping[str, Sequence[object]], path: Path) -> None:
        """Check that these are the metadata of a network with these outputs.

        channels: output -> the list of its number of channels; an empty list for an output of another rank.
        Errors: PointDetError for missing heatmaps, or if they have another number of classes.
        """
        for name in self.heatmaps:
            if list(channels.get(name, ())) != [len(self.class_names)]:
                raise PointDetError(
                    f"{path} has no output {name!r} of {len(self.class_names)} classes, which its metadata describe; "
                    "export the network again"
                )

    def configured(self, overrides: list[str], path: Path) -> Config:
        """The configuration with `overrides`. Errors: PointDetError if they change the network itself."""
        config = override(self.config, overrides)
        for key in ("model", "input.mean", "input.std", "input.colour_order"):
            if _value(config, key) != _value(self.config, key):
                raise PointDetError(
                    f"{key} is part of {path} and cannot be changed; export the checkpoint again"
                )
        if self.contents == "pipeline" and config.detector.nms_kernel != self.config.detector.nms_kernel:
            raise PointDetError(
                f"the peaks in {path} were found with detector.nms_kernel={self.config.detector.nms_kernel}, which "
                "cannot be changed; export the checkpoint again"
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


def is_ours(text: str | bytes) -> bool:
    """Whether a text is the metadata of an exported network, of any version."""
    try:
        _Written.model_validate_json(text)
    except ValidationError:
        return False
    return True


def _message(error: ValidationError, path: Path) -> str:
    """The first error as one sentence."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return f"the metadata of {path} are not whole JSON; export the network again"
    if error.title == _Format.__name__:
        return f"{path} was not saved by PointDet, or by another version; save it again with save_nnp.py"
    key = ".".join(str(part) for part in first["loc"])
    return f"{path}: {key!r} of the metadata is missing or of another kind; export the network again"


Number = Annotated[float, Field(ge=-1e30, le=1e30)]  # fits into float32
Row = tuple[Number, Number, Number, Number]


class _Input(BaseModel):
    largest_side: Annotated[int, Field(ge=1)] | None


class _Format(BaseModel):
    format: Literal[1]


class _Written(BaseModel):
    """What every version writes."""

    format: int
    detector: str
    contents: str
    class_names: list[str]


class _Fields(BaseModel):
    """The fields that are read. The others repeat some of them for other programs."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    config: dict[str, Any]
    class_names: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    heatmaps: tuple[str, ...]
    colour: Annotated[tuple[Row, ...], Field(min_length=3, max_length=4)]
    contents: Contents
    precision: Precision
    input: _Input


def _value(config: Config, key: str) -> object:
    """The section of that name, or the value of "section.key"."""
    section, _, name = key.partition(".")
    found = getattr(config, section)
    return getattr(found, name) if name else found
