# SPDX-License-Identifier: Apache-2.0
"""Array types for annotations. NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

AnyArray = npt.NDArray[Any]
BoolArray = npt.NDArray[np.bool_]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
UInt8Array = npt.NDArray[np.uint8]

Image = UInt8Array  # (H, W, 3) BGR
Arrays = dict[str, Float32Array]  # parameter path -> values
Maps = dict[str, Float32Array]  # name -> output map or target map
Batch = dict[str, AnyArray]  # a batch of the loader: "image" is uint8, all other arrays are float32
