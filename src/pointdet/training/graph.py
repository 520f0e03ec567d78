# SPDX-License-Identifier: Apache-2.0
"""The training graph of one rank. It is built once, with fixed shapes."""

from __future__ import annotations

from collections.abc import Callable

import nnabla as nn
import nnabla.functions as F
import numpy as np
from nnabla.function import Function

from pointdet.arrays import Batch, Float64Array
from pointdet.config.schema import Config
from pointdet.detectors.common.base import Detector
from pointdet.ops.cpu.memory import backward_pass
from pointdet.ops.map_sizes import check_map_sizes
from pointdet.ops.mode import Mode
from pointdet.runtime import Runtime
from pointdet.training.heatmap_inputs import HeatmapInputs


class TrainingGraph:
    """Computes the loss terms of one rank's batch, and the gradients of the parameters."""

    def __init__(self, config: Config, detector: Detector, runtime: Runtime, training: bool = True) -> None:
        """`training`: False for the loss only, with the running statistics and without gradients."""
        self._training = training
        batch, height, width = config.train.batch_size, config.input.height, config.input.width
        self.inputs = {
            "image": nn.Variable((batch, height, width, 3)),
            "colour": nn.Variable((batch, detector.image_channels, 4)),
            "weight": nn.Variable((batch,)),
        }
        self._dtypes = {name: np.uint8 if name == "image" else np.float32 for name in self.inputs}
        heatmaps = {}
        for name, shape in detector.codec.target_shapes().items():
            if name in detector.codec.heatmaps:
                self.inputs[name] = heatmaps[name] = nn.Variable((batch, *shape))
            elif name != "present":  # which only HeatmapInputs needs
                self.inputs[name] = nn.Variable((batch, *shape))
                self._dtypes[name] = np.float32
        self._heatmaps = HeatmapInputs(heatmaps, runtime)
        self._divisors = {name: nn.Variable(()) for name in detector.loss.divisors}
        half = config.mixed_precision.mixed_precision
        mode = Mode(
            training=training,
            channel_last=detector.channel_last,
            has_channel_last=runtime.has_channel_last,
            kernels=runtime.kernels(half),
            recompute=config.train.recompute and training,
            norm_context=runtime.norm_context(half),
        )
        with nn.context_scope(runtime.context()):
            stacks = detector.outputs(
                self.inputs["image"],
                self.inputs["colour"],
                mode,
                runtime.context(half),
                every_stack=True,
            )
            self.terms = detector.loss(stacks, self.inputs, self._divisors, mode.kernels)
        if not runtime.on_cpu:
            check_map_sizes(self.terms.values())
        for term in self.terms.values():
            term.persistent = True

    def forward(self, batch: Batch, divisors: Float64Array) -> nn.NdArray:
        """Compute the loss terms of `batch`: one array on the device, in the order of `terms`.

        `divisors`: one for each name in `loss.divisors`, summed over all ranks and accumulated passes.
        """
        self.feed(batch, divisors)
        self.terms["total"].forward(clear_buffer=not self._training, clear_no_need_grad=self._training)
        return F.stack(*(term.data for term in self.terms.values()))

    def feed(self, batch: Batch, divisors: Float64Array) -> None:
        """The first part of `forward`: copy a batch and the divisors to the inputs."""
        for name, dtype in self._dtypes.items():
            self.inputs[name].data.cast(dtype)[...] = batch[name]
        self._heatmaps.fill(batch)
        for variable, value in zip(self._divisors.values(), divisors, strict=True):
            variable.d[...] = value

    def values(self) -> dict[str, float]:
        """The loss terms of the last forward pass, by name. It waits for the device."""
        return {name: float(term.d) for name, term in self.terms.items()}

    def backward(self, scale: float, hook: Callable[[Function], None] | None = None) -> None:
        """Add the gradients of this batch, times `scale`, to the gradients of the parameters.

        `hook`: called after the backward pass of each function, see `GradientSum`.
        """
        with backward_pass():
            self.terms["total"].backward(scale, clear_buffer=True, function_post_hook=hook)
