# SPDX-License-Identifier: Apache-2.0
"""The base class of all configuration sections, and bounded number types."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# The upper bounds are far above any sensible value. Beyond them a number is a mistake that would otherwise fill the
# memory or overflow.
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1, le=10**9)]
Whole = Annotated[int, Field(ge=0, le=10**9)]
NotNegative = Annotated[float, Field(ge=0.0, le=1e9)]
Colour = Annotated[float, Field(ge=-1e6, le=1e6)]  # of pixel values in [0, 1]
Scale = Annotated[float, Field(gt=0.0, le=100.0)]
Channels = Annotated[int, Field(ge=1, le=4096)]  # a 3x3 convolution of 4096 channels has 600 MB
Side = Annotated[int, Field(ge=1, le=32766)]  # pixels; OpenCV makes no larger images
Objects = Annotated[int, Field(ge=1, le=100_000)]  # per image
Keypoints = Annotated[int, Field(ge=1, le=2000)]  # of each kind; their pairs are compared with each other


class Section(BaseModel):
    """An immutable part of the configuration. Unknown keys, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)
