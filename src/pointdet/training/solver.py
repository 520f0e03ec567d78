# SPDX-License-Identifier: Apache-2.0
"""Gradients -> parameters: Adam, learning rate, weight decay, clipping, loss scale, moving average."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nnabla as nn
import nnabla.functions as F
import nnabla.solvers as S
import numpy as np

from pointdet.config import schema
from pointdet.errors import PointDetError
from pointdet.ops.cpu.update import BlockedAdam, follow

# So many skipped steps in a row are no overflow of half precision any more.
MAX_SKIPS = 30


def learning_rate(settings: schema.LearningRate, num_epochs: int, iterations: int, step: int) -> float:
    """The rate of update `step` (from 0) when an epoch has `iterations` updates."""
    epoch = step / iterations
    if epoch < settings.warmup_epochs:
        return settings.base_lr * (step + 1) / math.ceil(settings.warmup_epochs * iterations)
    if settings.scheduler_type == "step":
        return settings.base_lr * settings.decay_rate ** sum(epoch >= e for e in settings.lr_steps)
    span = num_epochs - settings.warmup_epochs
    return (
        settings.base_lr * 0.5 * (1 + math.cos(math.pi * (epoch - settings.warmup_epochs) / max(span, 1e-9)))
    )


class LossScale:
    """The factor that keeps half gradients within range (Micikevicius et al., 2018, section 3.2)."""

    def __init__(self, settings: schema.MixedPrecision) -> None:
        self.value = settings.loss_scaling if settings.mixed_precision else 1.0
        self.dynamic = settings.mixed_precision and settings.use_dynamic_loss_scaling
        self._interval = settings.loss_scaling_interval
        self.good_steps = 0  # since the last change
        self.skipped_steps = 0  # of the whole run
        self.skips_in_a_row = 0

    def update(self, overflow: bool) -> None:
        """Tell the outcome of a step: halve on overflow, double after an interval without."""
        if overflow:
            self.skipped_steps += 1
            self.skips_in_a_row += 1
            self.good_steps = 0
            if self.dynamic:
                self.value = max(self.value / 2, 1.0)
            return
        self.skips_in_a_row = 0
        self.good_steps += 1
        if self.dynamic and self.good_steps >= self._interval:
            self.value = min(self.value * 2, 2.0**24)
            self.good_steps = 0

    def state(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "good_steps": self.good_steps,
            "skipped_steps": self.skipped_steps,
            "skips_in_a_row": self.skips_in_a_row,
        }

    def restore(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


class Solver:
    """Updates the learnt parameters in place; all state is float32 and can be saved.

    A step is: `begin`, any number of backward passes with `loss_scale.value`, the sum over the ranks, `update`.
    """

    def __init__(
        self,
        train: schema.Train,
        precision: schema.MixedPrecision,
        parameters: dict[str, nn.Variable],
        in_blocks: bool = False,
    ) -> None:
        """`in_blocks`: update through `ops.cpu`, for parameters on the CPU."""
        self.loss_scale = LossScale(precision)
        self._mixed = precision.mixed_precision
        self._train = train
        self._parameters = parameters
        learnt = {name: v for name, v in parameters.items() if v.need_grad}
        self._gradients = [v.grad for v in learnt.values()]
        self._adam = S.Adam()
        self._adam.set_parameters(learnt)
        # A forward pass that overflows ruins running statistics for good; a skipped step must leave no trace.
        self._statistics = [v.data for v in parameters.values() if not v.need_grad] if self._mixed else []
        self._statistics_before = [nn.NdArray(a.shape) for a in self._statistics]
        self._blocked = BlockedAdam(self._adam) if in_blocks else None
        self._newest = {name: v.data for name, v in parameters.items()} if train.ema_decay else {}
        self._average = {name: _copy(array) for name, array in self._newest.items()}
        self._moves = None if in_blocks else _moves(self._average, self._newest, train.ema_decay)

    @property
    def gradients(self) -> list[nn.NdArray]:
        return self._gradients

    def begin(self) -> None:
        """Forget the gradients of the last step."""
        self._adam.zero_grad()
        for before, now in zip(self._statistics_before, self._statistics, strict=True):
            before.copy_from(now)

    def update(self, lr: float) -> bool:
        """Apply the gradients, which are summed over ranks and still scaled. False: overflow, step skipped.

        Errors: PointDetError when nothing but overflows comes.
        """
        if self._mixed:
            overflow = self._adam.check_inf_or_nan_grad()
            scale = self.loss_scale.value
            self.loss_scale.update(overflow)
            if overflow:
                for now, before in zip(self._statistics, self._statistics_before, strict=True):
                    now.copy_from(before)
                if self.loss_scale.skips_in_a_row >= MAX_SKIPS:
                    raise PointDetError(
                        f"{MAX_SKIPS} steps in a row overflowed, the last at loss scale {scale:g}; lower "
                        "train.learning_rate.base_lr or switch mixed_precision.mixed_precision off"
                    )
                return False
            self._adam.scale_grad(1 / scale)
        if self._train.clip_grad_norm > 0:
            norm = gradient_norm(self._gradients)
            if norm > self._train.clip_grad_norm:
                self._adam.scale_grad(self._train.clip_grad_norm / norm)
        if self._train.weight_decay > 0:
            self._adam.weight_decay(self._train.weight_decay)
        if self._blocked is not None:
            self._blocked.update(lr)
        else:
            self._adam.set_learning_rate(lr)
            self._adam.update()
        self._follow()
        return True

    def _follow(self) -> None:
        """Running statistics are averaged too: they must belong to the averaged weights, not to the newest."""
        if self._moves is not None:
            self._moves.forward()
            return
        for name, newest in self._newest.items():
            follow(self._average[name], newest, self._train.ema_decay)

    def not_finite(self) -> str | None:
        """The first parameter or running statistic that holds a NaN or an infinity, by name."""
        with nn.auto_forward():
            for name, parameter in self._parameters.items():
                if not math.isfinite(float(F.sum(parameter.data).data)):  # nothing hides them in a sum
                    return name
        return None

    def averaged(self) -> dict[str, nn.NdArray]:
        """The moving average of every parameter; empty when train.ema_decay is 0."""
        return self._average

    def save(self, path: Path) -> None:
        """Adam's moments and counter, an .h5 file of NNabla's."""
        if self._blocked is not None:
            self._blocked.write_states()
        self._adam.save_states(str(path))

    def load(self, path: Path) -> None:
        """What `save` wrote. Errors: PointDetError for a file that is broken or of another network."""
        try:
            self._adam.load_states(str(path))
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise PointDetError(
                f"{path} is not a whole solver state ({str(error).splitlines()[0]}); resume from another checkpoint"
            ) from None
        if self._blocked is not None:
            self._blocked.read_states()


def _copy(array: nn.NdArray) -> nn.NdArray:
    copy = nn.NdArray(array.shape)
    copy.copy_from(array)
    return copy


def _moves(
    averages: dict[str, nn.NdArray], newest: dict[str, nn.NdArray], decay: float
) -> nn.Variable | None:
    """The graph whose forward pass moves the averages."""
    moves = []
    for name, array in averages.items():
        average, new = nn.Variable(array.shape), nn.Variable(array.shape)
        average.data, new.data = array, newest[name]
        moves.append(F.assign(average, average * decay + new * (1 - decay)))
    return F.sink(*moves) if moves else None


def gradient_norm(gradients: list[nn.NdArray]) -> float:
    """The Euclidean norm of all gradients together."""
    with nn.auto_forward():
        squares = [F.sum(F.mul2(g, g)) for g in gradients]
    return float(np.sqrt(sum(float(s.data) for s in squares)))
