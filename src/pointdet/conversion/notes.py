# SPDX-License-Identifier: Apache-2.0
"""The notes that an exported weight file keeps of its checkpoint: the whole configuration and the class names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pointdet.config.load import validate
from pointdet.config.schema import Config
from pointdet.errors import PointDetError

KEY = "pointdet"  # of the metadata
FORMAT = 1


@dataclass(frozen=True)
class Notes:
    """The settings and class names of a checkpoint."""

    config: Config
    class_names: tuple[str, ...]

    def metadata(self) -> dict[str, str]:
        """Metadata of a file. The entries other than `KEY` are for people and other programs."""
        model = self.config.model
        fields = {
            "format": FORMAT,
            "class_names": self.class_names,
            "config": self.config.model_dump(mode="json"),
        }
        return {
            KEY: json.dumps(fields),
            "detector": self.config.detector.name,
            "backbone": f"{model.arch} {model.num_layers}",
            "class_names": json.dumps(self.class_names),
            "input": self.config.input.model_dump_json(),
        }

    @staticmethod
    def read(metadata: Mapping[str, str], path: Path) -> Notes | None:
        """The notes in the metadata of the file `path`; None if PointDet did not write it.

        Errors: PointDetError if the notes are damaged.
        """
        if KEY not in metadata:
            return None
        try:
            fields = _Fields.model_validate_json(metadata[KEY])
        except ValidationError as error:
            key = ".".join(str(part) for part in error.errors()[0]["loc"]) or KEY
            raise PointDetError(
                f"{path}: {key!r} of the notes of PointDet is missing or damaged; export the checkpoint again"
            ) from None
        if len(set(fields.class_names)) < len(fields.class_names):
            raise PointDetError(f"{path}: its notes name a class twice; export the checkpoint again")
        return Notes(validate(fields.config, str(path)), fields.class_names)


class _Fields(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    format: Literal[1]
    class_names: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    config: dict[str, Any]
