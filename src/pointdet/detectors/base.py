# SPDX-License-Identifier: Apache-2.0
"""The contract of a detector: backbone, head, loss and codec, built together and kept apart.

Outputs and targets meet by name. Of the four parts only the codec works outside NNabla.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import nnabla as nn
import numpy as np
import numpy.typing as npt

from pointdet.ops.layers import Mode, colour
from pointdet.structures import Annotation, AtScales, Batch, Detections, Maps

Variables = dict[str, nn.Variable]


class Head(Protocol):
    @property
    def heatmaps(self) -> tuple[str, ...]:
        """Names of the outputs that are logits of heatmaps; the inference network gives their probabilities."""

    @property
    def class_bias(self) -> str:
        """Path, below the head, of a parameter that has one number per class."""

    def __call__(self, feature: nn.Variable, mode: Mode) -> Variables:
        """Feature map of one stack -> raw outputs by name, NCHW."""


class Loss(Protocol):
    @property
    def divisors(self) -> tuple[str, ...]:
        """Names of the divisors; each is one number, shared by all ranks."""

    def count(self, batch: Batch) -> npt.NDArray[np.float64]:
        """What this batch adds to each divisor, in the order of `divisors`."""

    def __call__(self, stacks: list[Variables], targets: Variables, divisors: Variables) -> Variables:
        """Outputs of every stack and targets by name -> the terms by name and their weighted sum, "total"."""


class Codec(Protocol):
    def target_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every target map of one image; all are float32."""

    def encode(self, annotation: Annotation, targets: Maps) -> int:
        """Fill `targets` from boxes_input; returns the number of objects that found no place."""

    def decode(self, maps: Maps, count: int, mirrored: Maps | None = None) -> Detections:
        """What the maps of an image, and of its mirror image, show: boxes_input, at least the `count` best.

        Maps are those of one image as the inference network gives them.
        """

    def painted(self, targets: Maps) -> Maps:
        """The maps of a network that has learnt the `targets` of one image: what `decode` reads them back from."""

    def select(self, parts: AtScales, size: tuple[int, int], soft_nms: bool, count: int) -> Detections:
        """The `count` best, best first, of what was decoded of one image at each scale: boxes_image.

        size: height and width of the image. Several scales find an object several times, so soft-NMS follows them
        whether or not it is asked for.
        """


@dataclass(frozen=True)
class Detector:
    """One detector with the parameters it owns; NNabla's global scope stays empty, so no two ever share them."""

    backbone: Callable[[nn.Variable, Mode], list[nn.Variable]]  # normalised image -> features, one per stack
    head: Head
    loss: Loss
    codec: Codec
    image_channels: int  # 3, or 4 with a channel of zeros
    channel_last: bool
    scope: OrderedDict[str, nn.Variable] = field(default_factory=OrderedDict)

    def outputs(
        self,
        images: nn.Variable,
        colour_matrix: nn.Variable,
        mode: Mode,
        context: nn.Context,
        every_stack: bool = False,
    ) -> list[Variables]:
        """uint8 images (B, H, W, 3) and their colour (B, C, 4) -> raw outputs of the last stack, or of every stack.

        The earlier stacks' heads exist for the loss alone. Where there are several, each one's parameters are in
        a scope of its own: stack1, stack2. `context` is that of the network, half or float; the pixels are
        normalised in the current one, float.
        """
        with nn.parameter_scope("", self.scope):
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
        """Draw the parameters of all stacks by building a graph for one square image, which is never run."""
        images, colour_matrix = nn.Variable((1, side, side, 3)), nn.Variable((1, self.image_channels, 4))
        mode = Mode(training=False, channel_last=self.channel_last)
        self.outputs(images, colour_matrix, mode, nn.get_current_context(), every_stack=True)

    def parameters(self, learnt_only: bool = False) -> dict[str, nn.Variable]:
        """The parameters by path, in the order of their making."""
        with nn.parameter_scope("", self.scope):
            return dict(nn.get_parameters(grad_only=learnt_only))

    @property
    def class_bias(self) -> str:
        """Path of a parameter that has one number per class; it exists after the first graph."""
        return next(name for name in self.parameters() if name.endswith(self.head.class_bias))
