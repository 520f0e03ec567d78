# SPDX-License-Identifier: Apache-2.0
"""Checks of the values of parameters: finite, and no negative variance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pointdet.arrays import Arrays
from pointdet.errors import PointDetError


def check(arrays: Arrays, source: str, keys: Mapping[str, str] | None = None) -> None:
    """Check the values of a network's parameters.

    Args:
        arrays: by our path.
        source: file name for the error message.
        keys: our path -> key in the file, where it differs.
    Errors: PointDetError for NaN and infinity, and for negative running variances.
    """
    for path, array in arrays.items():
        name = (keys or {}).get(path, path)
        if not np.isfinite(array).all():
            raise PointDetError(
                f"{name} of {source} has values that are NaN or infinite: its training failed, or the file is "
                "damaged; give an earlier checkpoint or another copy"
            )
        if path.endswith("/var") and array.size and array.min() < 0:
            raise PointDetError(
                f"{name} of {source} has negative variances ({array.min():.3g}): the file is damaged; give "
                "another copy"
            )
