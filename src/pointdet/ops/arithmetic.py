# SPDX-License-Identifier: Apache-2.0
"""How much arithmetic a graph of NNabla's own functions is."""

from __future__ import annotations

from collections.abc import Iterable

import nnabla as nn
import nnabla.functions as F


def multiply_adds(outputs: Iterable[nn.Variable]) -> int:
    """Those of the convolutions, deconvolutions and deformable convolutions that `outputs` are made with.

    In any layout, for the whole batch. Sums with a bias, interpolation, normalisation and pooling are left out, as
    published figures leave them out; published FLOPs are sometimes this number and sometimes twice as many.
    """
    counts: list[int] = []

    def count(function: nn.function.Function) -> None:
        kind = function.info.type_name  # on a GPU with a suffix
        if kind.startswith(("Convolution", "DeformableConvolution")):
            counts.append(_uses(function.inputs[1], function.outputs[0]))
        elif kind.startswith("Deconvolution"):
            counts.append(_uses(function.inputs[1], function.inputs[0]))

    F.sink(*outputs).visit(count)
    return sum(counts)


def _uses(weight: nn.Variable, cells: nn.Variable) -> int:
    """How often numbers of the weight are multiplied: all of them at each cell of the map on its first axis' side."""
    return int(weight.size * (cells.size // weight.shape[0]))
