# SPDX-License-Identifier: Apache-2.0
"""The focal loss of a heatmap as one NNabla function, in blocks of cells that fit the cache."""

from __future__ import annotations

from collections.abc import Iterator

import nnabla as nn
import numpy as np
from nnabla.function import PythonFunction

from pointdet.arrays import Float32Array
from pointdet.ops.cpu.memory import data, grad, silent, store, workspace
from pointdet.ops.cpu.process_state import function_context

BLOCK = 1 << 14  # cells of a block: 64 KiB for each of its arrays
GAP = 16  # values: 64 bytes
LARGEST = np.float32(80)  # of a logit whose exponential is computed: that of 89 is infinite in float32

LOGITS, HEATMAP, WEIGHT, POSITIVES = range(4)


def heatmap_focal(
    logits: nn.Variable, heatmap: nn.Variable, weight: nn.Variable, positives: nn.Variable
) -> nn.Variable:
    """As `ops.losses.heatmap_focal`. Only the logits get a gradient."""
    loss, _ = _HeatmapFocal(function_context())(logits, heatmap, weight, positives)
    return loss


class _HeatmapFocal(PythonFunction):
    """With p = sigmoid(x) and the target y, a cell has the loss

        y = 1:  (1 - p)^2 softplus(-x)           else:  (1 - y)^4 p^2 softplus(x)

    where softplus(x) = log(1 + exp(x)) = -log(1 - p). The forward pass also computes the slope d loss / d x from
    the same exponential, and keeps it as a second output for the backward pass.
    """

    @property
    def name(self) -> str:
        return "CpuHeatmapFocal"

    def min_outputs(self) -> int:
        return 2

    def grad_depends_output_data(self, i: int, o: int) -> bool:
        return i == LOGITS and o == 1

    def grad_depends_input_data(self, i: int, j: int) -> bool:
        return i == LOGITS and j in (WEIGHT, POSITIVES)

    def setup_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        outputs[0].reset_shape((), True)
        outputs[1].reset_shape(inputs[LOGITS].shape, True)

    @silent
    def forward_impl(self, inputs: list[nn.Variable], outputs: list[nn.Variable]) -> None:
        logits, heatmap, slope = data(inputs[LOGITS]), data(inputs[HEATMAP]), data(outputs[1])
        factors, total = _factors(inputs), 0.0
        for image, factor in enumerate(factors.tolist()):
            if factor:
                blocks = _blocks(logits[image], heatmap[image], slope[image])
                total += factor * sum(_focal(*block) for block in blocks)
        data(outputs[0])[...] = total

    @silent
    def backward_impl(
        self,
        inputs: list[nn.Variable],
        outputs: list[nn.Variable],
        propagate_down: list[bool],
        accum: list[bool],
    ) -> None:
        if not propagate_down[LOGITS]:
            return
        slope, dx = data(outputs[1]), grad(inputs[LOGITS])
        factors = _factors(inputs) * float(grad(outputs[0]))
        for image, factor in enumerate(factors.tolist()):
            for own, target in _blocks(slope[image], dx[image]):
                if factor:
                    store(target, np.multiply(own, factor, out=own), accum[LOGITS])
                elif not accum[LOGITS]:
                    target[...] = 0


def _factors(inputs: list[nn.Variable]) -> Float32Array:
    """(B,): the weight of each image, divided by the number of positives."""
    factors: Float32Array = data(inputs[WEIGHT]) / np.maximum(data(inputs[POSITIVES]), 1)
    return factors


def _blocks(*arrays: Float32Array) -> Iterator[list[Float32Array]]:
    flat = [array.reshape(-1) for array in arrays]
    for first in range(0, flat[0].size, BLOCK):
        yield [values[first : first + BLOCK] for values in flat]


def _focal(x: Float32Array, y: Float32Array, slope: Float32Array) -> float:
    """The sum of the loss over cells with logits x and targets y. Its derivatives are written to `slope`."""
    # NumPy's exponential and logarithm use no vector instructions between arrays without a gap.
    bounded, exp, softplus, rest, weighted = workspace("focal", 5, len(x) + GAP)[:, : len(x)]
    np.minimum(x, LARGEST, out=bounded)
    np.exp(bounded, out=exp)
    np.add(exp, 1, out=rest)
    np.log(rest, out=softplus)
    if not x.max() <= LARGEST:  # there softplus(x) = x
        np.subtract(x, bounded, out=bounded)
        softplus += bounded
    np.divide(1, rest, out=rest)  # 1 - p
    p = np.multiply(exp, rest, out=exp)
    np.multiply(p, p, out=weighted)
    has_objects = y.max() > 0  # most blocks have none
    if has_objects:
        absent = np.subtract(1, y, out=bounded)
        absent *= absent
        absent *= absent
        weighted *= absent  # of a positive: 0
    total = float(np.dot(weighted, softplus))
    rest *= softplus
    rest += rest
    rest += p
    np.multiply(weighted, rest, out=slope)
    if has_objects:
        total += _positives(x, np.flatnonzero(y == 1), slope)
    return total


def _positives(
    x: Float32Array, cells: np.ndarray[tuple[int], np.dtype[np.int64]], slope: Float32Array
) -> float:
    """The loss of the few positive cells, in float64. Their derivatives are written to `slope`."""
    logits = x[cells].astype(np.float64)
    softplus, rest = np.logaddexp(0, -logits), np.exp(-np.logaddexp(0, logits))  # -log p, 1 - p
    slope[cells] = -(rest**2) * (2 * np.exp(-softplus) * softplus + rest)
    return float(np.dot(rest**2, softplus))
