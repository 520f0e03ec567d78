# SPDX-License-Identifier: Apache-2.0
"""A detector and the interfaces of its parts: backbone, head, loss and codec.

Outputs and targets are dictionaries by name. The codec works with NumPy, the other parts with NNabla.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import nnabla as nn

from pointdet.arrays import Batch, Float64Array
from pointdet.codec import Codec
from pointdet.ops.colour import colour
from pointdet.ops.cpu.process_state import building
from pointdet.ops.mode import Mode

Variables = dict[str, nn.Variable]


class Head(Protocol):
    @property
    def heatmaps(self) -> tuple[str, ...]:
        """Names of the heatmap logits. The inference network converts them to probabilities."""

    @property
    def class_bias(self) -> str:
        """Path, below the head's scope, of a parameter with one value per class."""

    def __call__(self, feature: nn.Variable, mode: Mode) -> Variables:
        """Feature map of one stack -> raw outputs by name, NCHW."""


class Loss(Protocol):
    @property
    def divisors(self) -> tuple[str, ...]:
        """Names of the divisors. Each is a number, summed over all ranks."""

    def count(self, batch: Batch) -> Float64Array:
        """The contribution of this batch to each divisor, in the order of `divisors`."""

    def __call__(
        self, stacks: list[Variables], targets: Variables, divisors: Variables, kernels: str = "nnabla"
    ) -> Variables:
        """Outputs of every stack, and targets -> the loss terms by name, with their weighted sum "total".

        `kernels`: as `Mode.kernels`.
        """


@dataclass(frozen=True)
class Detector:
    """A detector and its parameters, which are in its own scope and not in NNabla's global one."""

    backbone: Callable[[nn.Variable, Mode], list[nn.Variable]]  # normalised image -> features, one per stack
    head: Head
    loss: Loss
    codec: Codec
    image_channels: int  # 3, or 4 with a channel of zeros
    channel_last: bool
    scope: OrderedDict[str, nn.Variable] = field(default_factory=OrderedDict)
    # Held during a forward pass: NNabla's arrays, here the parameters, must not be read by two passes at once.
    running: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)

    def outputs(
        self,
        images: nn.Variable,
        colour_matrix: nn.Variable,
        mode: Mode,
        context: nn.Context,
        every_stack: bool = False,
    ) -> list[Variables]:
        """Raw outputs of the last stack, or of every stack, which only the loss needs.

        images: uint8 (B, H, W, 3); colour_matrix: (B, C, 4). With several stacks, the parameters of each head
        are in a scope of the stack: stack1, stack2. `context` is the context of the network, half or float.
        The pixels are normalised in the current context, which is float.
        """
        with building, nn.parameter_scope("", self.scope):
            x = colour(images, colour_matrix, mode)
            with nn.context_scope(context):
                features = self.backbone(x, mode)
                outputs = []
                for stack, feature in enumerate(features, 1):
                    if every_stack or stack == len(features):
                        with nn.parameter_scope(f"stack{stack}" if len(features) > 1 else ""):
                            outputs.append(self.head(feature, mode))
                return outputs

    def make_parameters(self, side: int) -> None:
        """Create the parameters of all stacks by building a graph for one image of side x side pixels."""
        images, colour_matrix = nn.Variable((1, side, side, 3)), nn.Variable((1, self.image_channels, 4))
        mode = Mode(training=False, channel_last=self.channel_last)
        self.outputs(images, colour_matrix, mode, nn.get_current_context(), every_stack=True)

    def parameters(self, trainable_only: bool = False) -> dict[str, nn.Variable]:
        """The parameters by path, in the order of their creation."""
        with building, nn.parameter_scope("", self.scope):
            return dict(nn.get_parameters(grad_only=trainable_only))

    @property
    def class_bias(self) -> str:
        """Path of a parameter with one value per class. It exists after the first graph is built."""
        return next(name for name in self.parameters() if name.endswith(self.head.class_bias))
