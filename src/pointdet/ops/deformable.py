# SPDX-License-Identifier: Apache-2.0
"""Modulated deformable convolution 3x3 (Zhu et al., 2019) in every layout and mode.

Parameter paths below the current scope: ``conv/W``, ``conv/b``, and ``offset/conv/W``, ``offset/conv/b`` of
the convolution that predicts 18 offsets (y, x of each sample) and 9 mask logits.
"""

from __future__ import annotations

import nnabla as nn
import nnabla.functions as F

from pointdet.ops.cpu.deformable import deformable_convolution
from pointdet.ops.layers import bias, constant, convolve, norm, to_first, to_last, uniform_in, weight
from pointdet.ops.mode import Mode

SAMPLES = 9


def deform_conv_norm(x: nn.Variable, channels: int, mode: Mode) -> nn.Variable:
    """Deformable convolution with bias, batch normalisation, ReLU."""
    return norm(deform_conv(x, channels, mode), mode, relu=True)


def deform_conv(x: nn.Variable, channels: int, mode: Mode) -> nn.Variable:
    """Deformable convolution with bias. At initialisation it is half a convolution: offsets 0, mask 0.5."""
    in_channels = x.shape[mode.channel_axis]
    w = weight("conv", channels, in_channels, 3, mode, uniform_in)
    b = bias("conv", channels, constant(0))
    offset_w = weight("offset/conv", 3 * SAMPLES, in_channels, 3, mode, constant(0))
    offset_b = bias("offset/conv", 3 * SAMPLES, constant(0))
    prediction = convolve(x, offset_w, offset_b, mode)
    axis = mode.channel_axis
    # NNabla's function has no NHWC on any device.
    if not mode.through_python:
        prediction, axis = to_first(prediction, mode), 1
    stop = tuple(2 * SAMPLES if a == axis else side for a, side in enumerate(prediction.shape))
    offset = F.slice(prediction, stop=stop)
    # Half precision would round a position beyond cell 64 to 1/16 of a cell.
    with nn.context_scope(_single_precision(nn.get_current_context())):
        mask = F.sigmoid(F.slice(prediction, start=tuple(2 * SAMPLES if a == axis else 0 for a in range(4))))
        if mode.through_python:
            return deformable_convolution(x, w, offset, mask, b, weights_last=mode.channel_last)
        w = to_first(w, mode)
        y = F.deformable_convolution(to_first(x, mode), w, offset, mask, b, pad=(1, 1))
    return to_last(y, mode)


def _single_precision(context: nn.Context) -> nn.Context:
    """The same device in float32."""
    backend = [name.replace(":half", ":float") for name in context.backend]
    return nn.Context(backend, context.array_class, context.device_id)
