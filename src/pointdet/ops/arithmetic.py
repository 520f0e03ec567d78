# SPDX-License-Identifier: Apache-2.0
"""Multiply-adds of a graph of NNabla's own functions."""

from __future__ import annotations

from collections.abc import Iterable

import nnabla as nn
import nnabla.functions as F


def multiply_adds(outputs: Iterable[nn.Variable]) -> int:
    """Multiply-adds of all convolutions, deconvolutions and deformable convolutions that compute `outputs`.

    For the whole batch, in any layout. Biases, interpolation, normalisation and pooling are not counted, as
    in published figures. Published FLOPs are sometimes this number and sometimes twice this number.
    """
    counts: list[int] = []
    F.sink(*outputs).visit(lambda function: counts.append(multiply_adds_of(function)))
    return sum(counts)


def multiply_adds_of(function: nn.function.Function) -> int:
    """Multiply-adds of one function, as in `multiply_adds`. 0 if it is not a convolution."""
    kind = function.info.type_name  # with a suffix on a GPU
    if kind.startswith(("Convolution", "DeformableConvolution")):
        return _count(function.inputs[1], function.outputs[0])
    if kind.startswith("Deconvolution"):
        return _count(function.inputs[1], function.inputs[0])
    return 0


def _count(weight: nn.Variable, maps: nn.Variable) -> int:
    """Multiply-adds with `weight`: all its values are used at every position of `maps`.

    The first axis of `weight` is the channels of `maps`.
    """
    return int(weight.size * (maps.size // weight.shape[0]))
