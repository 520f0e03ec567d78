# SPDX-License-Identifier: Apache-2.0
"""Maps between the two layouts, as functions of NNabla."""

import nnabla.functions as F


def first(x):
    """(B, H, W, C) -> (B, C, H, W)."""
    return F.transpose(x, (0, 3, 1, 2))


def last(x):
    """(B, C, H, W) -> (B, H, W, C)."""
    return F.transpose(x, (0, 2, 3, 1))
