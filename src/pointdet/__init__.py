# SPDX-License-Identifier: Apache-2.0
"""PointDet: object detection with keypoints on NNabla."""

import logging
from typing import Any

from pointdet import processor

processor.prepare()
# NNabla logs "Initializing CPU extension..." on import. Importing PointDet must print nothing.
logging.getLogger("nnabla").addFilter(lambda record: not record.getMessage().startswith("Initializing"))

__version__ = "0.1.0"
__all__ = ["Predictor"]


def __getattr__(name: str) -> Any:
    # Imported on first use: the loader's worker processes import this package and must not import NNabla.
    if name == "Predictor":
        from pointdet.inference.predictor import Predictor

        return Predictor
    raise AttributeError(f"module 'pointdet' has no attribute {name!r}")
