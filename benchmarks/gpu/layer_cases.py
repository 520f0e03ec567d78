# SPDX-License-Identifier: Apache-2.0
"""The layers and pools of the networks, each on a small map: output, gradients and running statistics."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

import nnabla as nn
import numpy as np
from comparison import nchw, nhwc
from device import functions_on_cpu

from pointdet.arrays import AnyArray, Arrays
from pointdet.backbones.resnet import basic
from pointdet.detectors.common.branches import Branch, predict
from pointdet.ops import deformable, layers, pooling, upsampling
from pointdet.ops.mode import Mode
from pointdet.runtime import Runtime

Shape = tuple[int, int, int, int]

MAP: Shape = (2, 16, 20, 24)
POOLED: Shape = (2, 8, 13, 18)  # sides that are no powers of 2
BRANCHES = {"heatmap": Branch("heatmap", 5), "size": Branch("size", 2)}


@dataclass(frozen=True)
class LayerCase:
    """One layer."""

    build: Callable[[nn.Variable, Mode], nn.Variable]
    shape: Shape = MAP  # of the input, NCHW
    nchw_output: bool = False  # in every layout
    tolerance: float = 1  # factor of the limits

    def run(self, runtime: Runtime, mode: Mode, half: bool) -> tuple[Arrays, list[str]]:
        """Output, gradients and running statistics, NCHW, by name; functions that run on the CPU."""
        nn.seed(5)
        rng = np.random.default_rng(11)
        values = rng.standard_normal(self.shape, np.float32)
        with nn.context_scope(runtime.context(half)), nn.parameter_scope("", OrderedDict()):
            x = nn.Variable.from_numpy_array(_stored(values, mode)).apply(need_grad=True)
            y = self.build(x, mode)
            parameters = dict(nn.get_parameters(grad_only=False))
        for name, parameter in parameters.items():
            if name.startswith("offset/"):  # initially 0; here offsets of up to a few cells
                noise = 0.1 * rng.standard_normal(_nchw_shape(parameter.shape, mode), np.float32)
                parameter.d = _stored(noise, mode)
        for variable in (x, *parameters.values()):
            variable.grad.zero()
        y.forward()
        output_mode = replace(mode, channel_last=False) if self.nchw_output else mode
        slope = rng.standard_normal(_nchw_shape(y.shape, output_mode), np.float32)
        y.g = _stored(slope, output_mode)
        y.backward(None)
        found = {"output": _loaded(y.d, output_mode), "gradient of the input": _loaded(x.g, mode)}
        for name, parameter in parameters.items():
            if parameter.need_grad:
                gradient = _loaded(parameter.g, mode) if name.endswith("/W") else parameter.g.ravel()
                found[f"gradient of {name}"] = gradient
            else:
                found[name] = parameter.d.ravel()
        return {n: np.array(a, np.float32) for n, a in found.items()}, functions_on_cpu(runtime, y)


def _stored(array: AnyArray, mode: Mode) -> AnyArray:
    """An NCHW array in the mode's layout."""
    return nhwc(array) if mode.channel_last and array.ndim == 4 else array


def _loaded(array: AnyArray, mode: Mode) -> AnyArray:
    """An array in the mode's layout, as NCHW."""
    return nchw(array) if mode.channel_last else array


def _nchw_shape(shape: tuple[int, ...], mode: Mode) -> tuple[int, ...]:
    if mode.channel_last and len(shape) == 4:
        return (shape[0], shape[3], shape[1], shape[2])
    return shape


def _recomputed_unit(x: nn.Variable, mode: Mode) -> nn.Variable:
    return basic(x, 24, 2, replace(mode, recompute=True))


LAYERS = {
    "convolution 3x3": LayerCase(lambda x, m: layers.conv(x, 24, 3, m, bias_init=layers.constant(0.1))),
    "convolution 3x3, stride 2": LayerCase(lambda x, m: layers.conv(x, 24, 3, m, stride=2)),
    "convolution 7x7 of 4 channels": LayerCase(
        lambda x, m: layers.conv(x, 16, 7, m, stride=2), (2, 4, 32, 32)
    ),
    "convolution 1x1": LayerCase(lambda x, m: layers.conv(x, 8, 1, m)),
    "batch normalisation": LayerCase(lambda x, m: layers.norm(x, m, shortcut=x * 0.5, relu=True)),
    "normalisation, running statistics": LayerCase(lambda x, m: layers.norm(x, replace(m, training=False))),
    "deconvolution 4x4": LayerCase(lambda x, m: layers.deconv_norm(x, 12, m, init=layers.uniform_in)),
    "depthwise deconvolution, 2": LayerCase(lambda x, m: layers.depthwise_upsample(x, m, 2)),
    "depthwise deconvolution, 4": LayerCase(lambda x, m: layers.depthwise_upsample(x, m, 4)),
    "max pooling 3, stride 2": LayerCase(lambda x, m: layers.max_pool(x, m, kernel=3, stride=2, pad=1)),
    "max pooling 2": LayerCase(lambda x, m: layers.max_pool(x, m, kernel=2, stride=2, pad=0)),
    "nearest neighbour, 2": LayerCase(lambda x, m: upsampling.upsample_nearest(x, 2, m)),
    "nearest neighbour, 4": LayerCase(lambda x, m: upsampling.upsample_nearest(x, 4, m)),
    "bilinear, 2": LayerCase(lambda x, m: upsampling.upsample_bilinear(x, 2, m)),
    "bilinear, 8": LayerCase(lambda x, m: upsampling.upsample_bilinear(x, 8, m)),
    "deformable convolution": LayerCase(lambda x, m: deformable.deform_conv(x, 12, m), tolerance=3),
    "branches of a head": LayerCase(lambda x, m: predict(x, BRANCHES, 8, m)["heatmap"], nchw_output=True),
    "recomputed residual unit": LayerCase(_recomputed_unit, tolerance=3),
    **{
        f"corner pooling, {direction}": LayerCase(
            lambda x, m, d=direction: pooling.corner_pool(x, d, m), POOLED
        )
        for direction in ("top", "bottom", "left", "right")
    },
    "corner pooling, inference": LayerCase(
        lambda x, m: pooling.corner_pool(x, "top", replace(m, training=False)), POOLED
    ),
    "pooling of columns": LayerCase(lambda x, m: pooling.line_pool(x, True, m), POOLED),
    "pooling of rows": LayerCase(lambda x, m: pooling.line_pool(x, False, m), POOLED),
}
