# SPDX-License-Identifier: Apache-2.0
"""The update of the parameters: Adam or SGD, learning rate, weight decay, gradient clipping, loss scale."""

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
from pointdet.ops.cpu.update import BlockedAdam
from pointdet.training.array_sums import ArraySums
from pointdet.training.frozen import frozen_names
from pointdet.weights import h5_file
from pointdet.weights.fit import fit

MAX_SKIPS = 30  # this many skipped steps in a row end the training


def learning_rate(settings: schema.LearningRateConfig, num_epochs: int, iterations: int, step: int) -> float:
    """The learning rate of update `step`, counted from 0. `iterations`: updates per epoch."""
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
    """The factor that keeps gradients within the range of half (Micikevicius et al., 2018, section 3.2)."""

    def __init__(self, settings: schema.MixedPrecisionConfig) -> None:
        self.value = settings.loss_scaling if settings.mixed_precision else 1.0
        self.dynamic = settings.mixed_precision and settings.use_dynamic_loss_scaling
        self._interval = settings.loss_scaling_interval
        self.good_steps = 0  # since the last change
        self.skipped_steps = 0  # of the whole run
        self.skips_in_a_row = 0

    def update(self, overflow: bool) -> None:
        """Count a step. Halve the scale after an overflow, double it after an interval without overflow."""
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
    """Updates the trainable parameters in place. The solver state is float32 and can be saved.

    A step consists of `begin`, one or more backward passes scaled by `loss_scale.value`, the sum of the
    gradients over the ranks, and `update`.
    """

    def __init__(
        self,
        train: schema.TrainConfig,
        precision: schema.MixedPrecisionConfig,
        parameters: dict[str, nn.Variable],
        in_blocks: bool = False,
    ) -> None:
        """`in_blocks`: use the functions of `ops.cpu` (CPU only)."""
        self.loss_scale = LossScale(precision)
        self._mixed = precision.mixed_precision
        self._train = train
        self._parameters = parameters
        trainable = {name: v for name, v in parameters.items() if v.need_grad}
        frozen = frozen_names(trainable, train.freeze)
        # Layers compute these gradients too. Nothing reads them.
        self._unused_gradients = [trainable.pop(name).grad for name in frozen]
        self._gradients = [v.grad for v in trainable.values()]
        self._solver = S.Adam() if train.solver == "adam" else S.Momentum(momentum=train.momentum)
        self._solver.set_parameters(trainable)
        # Only its function `weight_decay` is used, which adds to the gradients.
        self._decay = S.Sgd()
        self._decay.set_parameters(
            {n: v for n, v in trainable.items() if train.weight_decay_of == "all" or n.endswith("/W")}
        )
        # A forward pass that overflows also spoils the running statistics. A skipped step restores them.
        self._statistics = [v.data for v in parameters.values() if not v.need_grad] if self._mixed else []
        self._statistics_before = [nn.NdArray(a.shape) for a in self._statistics]
        self._blocked = BlockedAdam(self._solver) if in_blocks and train.solver == "adam" else None
        # Which also clips and decays the gradients, if all are treated alike.
        self._alike = self._blocked is not None and (
            train.weight_decay == 0 or train.weight_decay_of == "all"
        )
        clip = train.clip_grad_norm > 0 and not self._alike
        self._squares = ArraySums(self._gradients, lambda g: F.mul2(g, g)) if clip else None
        # A value times 0 is not 0 if the value is infinite or NaN.
        self._overflows = ArraySums(self._gradients, lambda g: g * 0) if self._mixed else None
        self._faults = ArraySums([v.data for v in parameters.values()], lambda v: v)

    @property
    def gradients(self) -> list[nn.NdArray]:
        return self._gradients

    def begin(self) -> None:
        """Set the gradients to zero. With mixed precision, also back up the running statistics."""
        self._solver.zero_grad()
        for gradient in self._unused_gradients:
            gradient.zero()
        for before, now in zip(self._statistics_before, self._statistics, strict=True):
            before.copy_from(now)

    def update(self, lr: float) -> bool:
        """Apply the gradients: summed over the ranks, and still multiplied by the loss scale.

        Returns False if they overflowed and the step was skipped. Errors: PointDetError after MAX_SKIPS
        skipped steps in a row.
        """
        if self._overflows is not None:
            overflow = not np.isfinite(self._overflows.compute()).all()
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
            self._solver.scale_grad(1 / scale)
        if self._blocked is not None and self._alike:
            self._blocked.update(lr, self._train.weight_decay, self._train.clip_grad_norm)
            return True
        if self._squares is not None:
            norm = math.sqrt(self._squares.compute().sum(dtype=np.float64))
            if norm > self._train.clip_grad_norm:
                self._solver.scale_grad(self._train.clip_grad_norm / norm)
        if self._train.weight_decay > 0:
            self._decay.weight_decay(self._train.weight_decay)
        if self._blocked is not None:
            self._blocked.update(lr)
        else:
            self._solver.set_learning_rate(lr)
            self._solver.update()
        return True

    def not_finite(self) -> str | None:
        """The name of the first parameter or running statistic that contains NaN or infinity, or None."""
        faults = np.flatnonzero(~np.isfinite(self._faults.compute()))
        return list(self._parameters)[faults[0]] if len(faults) else None

    def save(self, path: Path) -> None:
        """Write the moments and step counters to an .h5 file, in NNabla's format."""
        if self._blocked is not None:
            self._blocked.write_states()
        states = self._solver.get_states()
        moments = {name: {kind: v.data.data for kind, v in s.pstate.items()} for name, s in states.items()}
        h5_file.write_solver(path, {name: (state.t, moments[name]) for name, state in states.items()})

    def load(self, path: Path, channel_last: bool) -> None:
        """Read a file of `save`. It may be of the same network in the other layout or with other input
        channels.

        Errors: PointDetError when the file is damaged or belongs to another network.
        """
        stored, states = h5_file.read(path), self._solver.get_states()
        kinds = list(next(iter(states.values())).pstate)
        if not any(name.endswith(f"/{kinds[0]}") for name in stored):
            raise PointDetError(
                f"{path} is the state of another solver than train.solver={self._train.solver}; keep the solver, or "
                "start a new run from these parameters with --checkpoint"
            )
        for kind in kinds:
            suffix = f"/{kind}"
            moments = {n.removesuffix(suffix): a for n, a in stored.items() if n.endswith(suffix)}
            report = fit(moments, {n: state.pstate[kind] for n, state in states.items()}, channel_last)
            if report.skipped or report.new or report.unused:
                first = (*report.skipped, *report.new, *report.unused)[0]
                raise PointDetError(
                    f"{path} is not the solver state of this network and train.freeze (first: {first}); resume from another "
                    "checkpoint, or start a new run from these parameters with --checkpoint"
                )
        for name, state in states.items():
            steps = stored.get(f"{name}/t")
            if steps is None or steps.size != 1 or not np.isfinite(steps).all():
                raise PointDetError(f"{path} lacks {name}/t; resume from another checkpoint")
            state.t = int(steps.item())
        self._solver.set_states(states)
        if self._blocked is not None:
            self._blocked.read_states()
