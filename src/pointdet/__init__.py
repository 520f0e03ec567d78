# SPDX-License-Identifier: Apache-2.0
"""PointDet: object detection with keypoints on NNabla."""

import os
from typing import Any

# Before NumPy is imported: ranks share the cores, and each of NumPy's BLAS would start a thread for every one.
if int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__version__ = "0.1.0"
__all__ = ["Predictor"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: the loader's worker processes import this package and must not wake NNabla.
    if name == "Predictor":
        from pointdet.inference.predictor import Predictor

        return Predictor
    raise AttributeError(f"module 'pointdet' has no attribute {name!r}")
