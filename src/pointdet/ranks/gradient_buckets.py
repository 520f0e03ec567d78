# SPDX-License-Identifier: Apache-2.0
"""Sums the gradients over the GPUs while the backward pass is running (Li et al., 2020, section 3.2).

Gradients are grouped into buckets. As soon as all gradients of a bucket are final, NCCL starts to sum them,
and the backward pass goes on with earlier layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import nnabla as nn
import numpy as np
from nnabla.function import Function

from pointdet.errors import PointDetError
from pointdet.ranks.nccl_library import Nccl

BUCKET_BYTES = 8 << 20  # good for fast links, see docs/scaling.md


class GradientBuckets:
    """The buckets of one training graph.

    The first backward pass records in which order the gradients become final, and sums them at its end. All
    ranks use the order of rank 0, because NCCL needs the same order on every rank.
    """

    def __init__(
        self,
        nccl: Nccl,
        broadcast: Callable[[list[int]], list[int]],
        loss: nn.Variable,
        gradients: Sequence[nn.NdArray],
        context: nn.Context,
        bucket_bytes: int,
    ) -> None:
        """`broadcast`: returns rank 0's value on every rank. `context`: device of the gradients, float32.
        `bucket_bytes`: a bucket is full when it has this size or more.
        """
        self._nccl, self._broadcast, self._context = nccl, broadcast, context
        self._gradients, self._bucket_bytes = list(gradients), bucket_bytes
        numbers = {gradient: number for number, gradient in enumerate(self._gradients)}
        self._used: dict[Function, list[int]] = {}  # gradients to which a function's backward pass adds
        loss.visit(lambda function: self._note(function, numbers))
        self._uses = [0] * len(self._gradients)
        for found in self._used.values():
            for number in found:
                self._uses[number] += 1
        self._buckets: list[list[int]] = []
        self._bucket_of: dict[int, int] = {}
        self._restart()

    def _note(self, function: Function, numbers: dict[nn.NdArray, int]) -> None:
        found = [numbers[v.grad] for v in function.inputs if v.need_grad and v.grad in numbers]
        if found:
            self._used[function] = found

    def _restart(self) -> None:
        self._left = list(self._uses)  # functions that still add to a gradient
        self._order: list[int] = []  # final gradients
        self._missing = [len(bucket) for bucket in self._buckets]  # gradients that are not final
        self._started = 0  # buckets
        self._fault: PointDetError | None = None

    def hook(self, function: Function) -> None:
        """NNabla calls it after the backward pass of each function."""
        if self._fault is None and function in self._used:
            try:
                self._add(self._used[function])
            except PointDetError as error:  # NNabla would end the process; `finish` raises it
                self._fault = error

    def _add(self, numbers: list[int]) -> None:
        for number in numbers:
            self._left[number] -= 1
            if self._left[number] == 0:
                self._order.append(number)
                if self._buckets:
                    self._missing[self._bucket_of[number]] -= 1
        while self._started < len(self._buckets) and self._missing[self._started] == 0:
            self._start_next()

    def _start_next(self) -> None:
        bucket = [self._gradients[number] for number in self._buckets[self._started]]
        self._nccl.sum([(array.data_ptr(np.float32, self._context), array.size) for array in bucket])
        self._started += 1

    def finish(self) -> None:
        """Call it after the backward pass. All following work sees the sums.

        Errors: PointDetError if NCCL failed.
        """
        if self._fault is not None:
            raise self._fault
        if not self._buckets:
            self._make_buckets()
        while self._started < len(
            self._buckets
        ):  # in the first pass all; later those without a backward pass
            self._start_next()
        self._nccl.wait()
        self._restart()

    def _make_buckets(self) -> None:
        final = set(self._order)
        rest = [number for number in range(len(self._gradients)) if number not in final]
        size = self._bucket_bytes
        for number in self._broadcast(self._order + rest):
            if size >= self._bucket_bytes:
                self._buckets.append([])
                size = 0
            self._buckets[-1].append(number)
            self._bucket_of[number] = len(self._buckets) - 1
            size += 4 * self._gradients[number].size
