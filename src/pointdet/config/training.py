# SPDX-License-Identifier: Apache-2.0
"""The keys of the sections `train` and `mixed_precision`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pointdet.config.section import NotNegative, Positive, Section, Whole


class LearningRateConfig(Section):
    """The learning rate schedule."""

    base_lr: float = Field(default=5e-4, gt=0.0)
    """Learning rate after the warm-up, for the whole batch of an update (all ranks and forward passes)."""
    scheduler_type: Literal["cosine", "step"] = "cosine"
    """Schedule after the warm-up. ``cosine``: half a cosine, down to 0 at the end. ``step``: see lr_steps."""
    warmup_epochs: NotNegative = 5.0
    """Length of the linear warm-up, which changes the rate at every update; may be a fraction."""
    lr_steps: tuple[Positive, ...] = (90, 120)
    """step: epochs after which the learning rate is multiplied by decay_rate."""
    decay_rate: float = Field(default=0.1, gt=0.0, lt=1.0)
    """step: factor of the learning rate at each of lr_steps."""

    @model_validator(mode="after")
    def _check(self) -> LearningRateConfig:
        if list(self.lr_steps) != sorted(set(self.lr_steps)):
            raise ValueError("lr_steps must be strictly increasing")
        return self


class TrainConfig(Section):
    """The training."""

    num_epochs: Positive = 140
    """Number of epochs."""
    batch_size: Positive = 32
    """Images per rank and forward pass."""
    accumulate: Positive = 1
    """Forward passes per update (gradient accumulation); their images count as one batch."""
    recompute: bool = False
    """Gradient checkpointing: keep only the outputs of residual units and recompute the rest in the backward
    pass. Uses less memory and more time; the results are the same."""
    learning_rate: LearningRateConfig = LearningRateConfig()
    """The learning rate schedule."""
    solver: Literal["adam", "sgd"] = "adam"
    """Update of the parameters. ``adam``: Adam with the published decays 0.9 and 0.999. ``sgd``: stochastic gradient
    descent with momentum, velocity = momentum * velocity + rate * gradient."""
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    """sgd: momentum."""
    weight_decay: NotNegative = 0.0
    """Factor of the parameters that is added to their gradients (L2 regularisation). 0 is off."""
    weight_decay_of: Literal["all", "kernels"] = "all"
    """Parameters with weight decay. ``kernels``: those of convolutions and deconvolutions only, not biases nor the
    scales and shifts of batch normalisation."""
    freeze: tuple[str, ...] = ()
    """Scopes of parameters that are not trained, such as conv1 and res1 (ResNet). Their running statistics go on."""
    clip_grad_norm: NotNegative = 0.0
    """Maximum L2 norm of all gradients together. 0 is off."""
    ema_decay: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Decay of the exponential moving average (EMA) of the weights, which evaluation and export use. 0 is
    off. The initial weights no longer matter after about 5 / (1 - ema_decay) updates."""
    seed: int = Field(default=317, ge=0, lt=2**31)
    """Random seed of weight initialisation, image order and augmentation."""
    workers: int = Field(default=2, ge=0, le=1024)
    """Data loading processes per rank. 0: the training process loads the data."""
    val_intervals: Positive = 5
    """Epochs between validations. The last epoch is always validated."""
    validation: tuple[Literal["ap", "loss"], ...] = Field(default=("ap",), min_length=1)
    """What a validation measures: ``ap``, ``loss`` (of images without augmentation), or both. The first one selects the
    checkpoint `best`."""
    save_intervals: Whole = 0
    """Epochs between permanent checkpoints epoch_N, in addition to `last` and `best`. 0: none."""
    snapshot: Whole = 0
    """Steps (updates) between permanent checkpoints step_N. 0: none."""
    keep_checkpoints: Whole = 0
    """Number of checkpoints epoch_N, and of checkpoints step_N, that are kept; older ones are removed. 0: all."""
    save_solver: Literal["last", "all"] = "last"
    """Checkpoints with the state of the solver, from which a training can be resumed: `last` or `all`."""
    save_detections: bool = False
    """Write detections.json at every validation."""
    failed_validation: Literal["stop", "continue"] = "stop"
    """What a validation that fails does to the training. The trained epoch is saved in any case."""
    save_minutes: NotNegative = 30.0
    """Minutes after which `last` is also written during an epoch. 0: only at the end of every epoch."""
    log_intervals: Positive = 20
    """Updates between two lines of the log."""


class MixedPrecisionConfig(Section):
    """Numeric precision and memory layout."""

    mixed_precision: bool = False
    """Compute the network in half precision. Parameters, solver and losses remain float32."""
    channel_last: bool = False
    """NHWC memory layout instead of NCHW."""
    loss_scaling: float = Field(default=65536.0, ge=1.0, le=2.0**24)
    """Loss scale: the initial value if it is dynamic, or else a constant. Only used with mixed_precision."""
    use_dynamic_loss_scaling: bool = True
    """Halve the scale and skip the update on overflow; double it after loss_scaling_interval good updates."""
    loss_scaling_interval: Positive = 2000
    """Good updates (without overflow) before the dynamic loss scale is doubled."""
