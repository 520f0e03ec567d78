# SPDX-License-Identifier: Apache-2.0
"""Convolution, deconvolution, normalisation and pooling with named parameters, for every layout and mode.

Parameter paths below the current scope: ``conv/W``, ``conv/b``, ``deconv/W``, ``bn/{beta,gamma,mean,var}``.
Shapes of W: NCHW (out, in, k, k), NHWC (out, k, k, in); deconvolution (in, out/groups, k, k) and (in, k, k,
out/groups).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import nnabla as nn
import nnabla.functions as F
import nnabla.random
import numpy as np
from nnabla.parameter import get_parameter_or_create

from pointdet.arrays import Float32Array
from pointdet.ops.cpu import convolution, depthwise, maps, max_pooling, normalisation
from pointdet.ops.mode import Mode

DECAY = 0.9  # of the running statistics
EPSILON = 1e-5  # of batch normalisation

Initialiser = Callable[[tuple[int, ...]], Float32Array]

_initialise = ContextVar("initialise", default=True)


def he_out(shape: tuple[int, ...]) -> Float32Array:
    """N(0, sqrt(2 / (k k out))) for NCHW weights (He et al., 2015, with fan-out)."""
    return np.asarray(
        nnabla.random.prng.normal(0, np.sqrt(2 / (shape[0] * shape[2] * shape[3])), shape), np.float32
    )


def uniform_in(shape: tuple[int, ...]) -> Float32Array:
    """U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)) for NCHW weights, the default of PyTorch."""
    bound = 1 / np.sqrt(shape[1] * shape[2] * shape[3])
    return np.asarray(nnabla.random.prng.uniform(-bound, bound, shape), np.float32)


def small_normal(shape: tuple[int, ...]) -> Float32Array:
    """N(0, 0.001)."""
    return np.asarray(nnabla.random.prng.normal(0, 0.001, shape), np.float32)


def constant(value: float) -> Initialiser:
    return lambda shape: np.full(shape, value, np.float32)


@contextmanager
def parameters_without_values() -> Iterator[None]:
    """Inside this context new parameters are not initialised, if only their shapes are needed.

    They are zeros without memory. Random values of a large network take seconds.
    """
    token = _initialise.set(False)
    try:
        yield
    finally:
        _initialise.reset(token)


def _parameter(name: str, shape: tuple[int, ...], init: Initialiser, need_grad: bool = True) -> nn.Variable:
    return get_parameter_or_create(name, shape, init if _initialise.get() else None, need_grad)


def weight(
    scope: str, out_channels: int, in_channels: int, kernel: int, mode: Mode, init: Initialiser
) -> nn.Variable:
    """The parameter `scope`/W in the mode's layout. Its random initial values do not depend on the layout."""
    first = (out_channels, in_channels, kernel, kernel)
    stored = (out_channels, kernel, kernel, in_channels) if mode.channel_last else first

    def initial_values(shape: tuple[int, ...]) -> Float32Array:
        values = init(first)
        return values.transpose(0, 2, 3, 1) if mode.channel_last else values

    return _parameter(f"{scope}/W", stored, initial_values)


def bias(scope: str, channels: int, init: Initialiser) -> nn.Variable:
    """The parameter `scope`/b, (channels,)."""
    return _parameter(f"{scope}/b", (channels,), init)


def convolve(
    x: nn.Variable,
    w: nn.Variable,
    b: nn.Variable | None,
    mode: Mode,
    stride: int = 1,
    relu: bool = False,
) -> nn.Variable:
    """Convolution with an odd kernel and "same" padding, then ReLU if `relu`."""
    if mode.wrapped:
        return _to_last(convolve(_to_first(x), _to_first(w), b, mode.unwrapped, stride, relu))
    if mode.through_python:
        return convolution.convolution(x, w, b, _geometry(w, mode, stride), relu)
    pad = w.shape[2] // 2  # axis 2 is a side of the kernel in both layouts
    y = F.convolution(x, w, b, pad=(pad, pad), stride=(stride, stride), channel_last=mode.channel_last)
    return F.relu(y) if relu else y


def _geometry(w: nn.Variable, mode: Mode, stride: int = 1) -> convolution.Geometry:
    """Of a convolution with "same" padding by `ops.cpu`."""
    return convolution.Geometry(w.shape[2] // 2, mode.kernels, stride, weights_last=mode.channel_last)


def conv(
    x: nn.Variable,
    channels: int,
    kernel: int,
    mode: Mode,
    *,
    stride: int = 1,
    init: Initialiser = he_out,
    bias_init: Initialiser | None = None,
) -> nn.Variable:
    """`convolve` with the parameters conv/W and, if `bias_init` is given, conv/b."""
    w = weight("conv", channels, x.shape[mode.channel_axis], kernel, mode, init)
    b = bias("conv", channels, bias_init) if bias_init is not None else None
    return convolve(x, w, b, mode, stride)


def norm(
    x: nn.Variable,
    mode: Mode,
    *,
    shortcut: nn.Variable | None = None,
    relu: bool = False,
    gamma: float = 1,
) -> nn.Variable:
    """Batch normalisation with bn/{beta,gamma,mean,var}, the sum with `shortcut`, then ReLU if `relu`.

    eps is 1e-5 and the decay of the running statistics 0.9. `gamma`: its initial value.
    """
    parameters = _norm_parameters(x.shape[mode.channel_axis], gamma, mode)
    if mode.through_python:
        return normalisation.batch_normalization(
            *(x, parameters),
            decay=DECAY,
            eps=EPSILON,
            batch_stat=mode.training,
            shortcut=shortcut,
            relu=relu,
            library=mode.kernels,
        )
    with nn.context_scope(mode.norm_context or nn.get_current_context()):
        h = F.batch_normalization(
            x, *parameters, axes=[mode.channel_axis], decay_rate=DECAY, eps=EPSILON, batch_stat=mode.training
        )
    h = h if shortcut is None else h + shortcut
    return F.relu(h) if relu else h


def _norm_parameters(channels: int, gamma: float, mode: Mode) -> list[nn.Variable]:
    """bn/beta, bn/gamma, bn/mean and bn/var."""
    shape = (1, 1, 1, channels) if mode.channel_last else (1, channels, 1, 1)
    return [
        _parameter(f"bn/{name}", shape, constant(value), need_grad=trainable)
        for name, value, trainable in (
            ("beta", 0, True),
            ("gamma", gamma, True),
            ("mean", 0, False),
            ("var", 1, False),
        )
    ]


def conv_norm(
    x: nn.Variable,
    channels: int,
    kernel: int,
    mode: Mode,
    *,
    stride: int = 1,
    init: Initialiser = he_out,
    shortcut: nn.Variable | None = None,
    relu: bool = True,
    gamma: float = 1,
) -> nn.Variable:
    """Convolution without bias, then `norm`."""
    if mode.through_python and not (mode.training or mode.backward):
        w = weight("conv", channels, x.shape[3], kernel, mode, init)
        parameters, geometry = _norm_parameters(channels, gamma, mode), _geometry(w, mode, stride)
        return convolution.normalised_convolution(
            x, w, parameters, geometry, eps=EPSILON, shortcut=shortcut, relu=relu
        )
    with nn.recompute(mode.recompute):
        h = conv(x, channels, kernel, mode, stride=stride, init=init)
    return norm(h, mode, shortcut=shortcut, relu=relu, gamma=gamma)


def deconv_norm(
    x: nn.Variable, channels: int, mode: Mode, *, init: Initialiser = small_normal
) -> nn.Variable:
    """Deconvolution 4x4 to twice the size (stride 2, no bias), batch normalisation, ReLU."""
    w = weight("deconv", x.shape[mode.channel_axis], channels, 4, mode, init)
    with nn.recompute(mode.recompute):
        h = _deconvolve(x, w, mode)
    return norm(h, mode, relu=True)


def _deconvolve(x: nn.Variable, w: nn.Variable, mode: Mode) -> nn.Variable:
    if mode.wrapped:
        return _to_last(_deconvolve(_to_first(x), _to_first(w), mode.unwrapped))
    if mode.through_python:
        geometry = convolution.Geometry(1, mode.kernels, stride=2, weights_last=mode.channel_last)
        return convolution.deconvolution(x, w, geometry)
    return F.deconvolution(x, w, pad=(1, 1), stride=(2, 2), channel_last=mode.channel_last)


def depthwise_upsample(x: nn.Variable, mode: Mode, factor: int = 2) -> nn.Variable:
    """Depthwise deconvolution to `factor` (even) times the size, initialised as bilinear interpolation."""
    w = weight("deconv", x.shape[mode.channel_axis], 1, 2 * factor, mode, bilinear)
    return _depthwise_deconvolve(x, w, mode)


def _depthwise_deconvolve(x: nn.Variable, w: nn.Variable, mode: Mode) -> nn.Variable:
    if mode.wrapped:
        return _to_last(_depthwise_deconvolve(_to_first(x), _to_first(w), mode.unwrapped))
    channels, stride = w.shape[0], w.shape[2] // 2  # axis 2 is a side of the kernel in both layouts
    pad = stride // 2
    if mode.kernels == "onednn":
        geometry = convolution.Geometry(pad, "onednn", stride, 1, channels, mode.channel_last)
        return convolution.deconvolution(x, w, geometry)
    if mode.through_python:
        return depthwise.depthwise_deconvolution(x, w, mode.channel_last)
    steps = {"pad": (pad, pad), "stride": (stride, stride)}
    return F.deconvolution(x, w, **steps, group=channels, channel_last=mode.channel_last)


def bilinear(shape: tuple[int, ...]) -> Float32Array:
    """NCHW deconvolution weights of bilinear interpolation, for a stride of half their side."""
    side = shape[-1]
    row = 1 - abs(np.arange(side) + 0.5 - side / 2) / (side / 2)
    return np.broadcast_to(np.outer(row, row), shape).astype(np.float32)


def max_pool(x: nn.Variable, mode: Mode, *, kernel: int, stride: int, pad: int) -> nn.Variable:
    if mode.wrapped:
        return _to_last(max_pool(_to_first(x), mode.unwrapped, kernel=kernel, stride=stride, pad=pad))
    if mode.through_python:
        return max_pooling.max_pooling(x, kernel=kernel, stride=stride, pad=pad, library=mode.kernels)
    return F.max_pooling(
        x, (kernel, kernel), (stride, stride), pad=(pad, pad), channel_last=mode.channel_last
    )


def add(a: nn.Variable, b: nn.Variable, mode: Mode, relu: bool = False) -> nn.Variable:
    """The sum of two maps, then ReLU if `relu`."""
    if mode.through_python:
        return maps.add(a, b, relu, mode.kernels)
    return F.relu(a + b) if relu else a + b


def split(x: nn.Variable, parts: int, mode: Mode) -> list[nn.Variable]:
    """The channels of a map in equal parts."""
    if mode.through_python:
        return maps.split(x, parts)
    axis = mode.channel_axis
    step = x.shape[axis] // parts
    starts = [[i * step if a == axis else 0 for a in range(4)] for i in range(parts)]
    stops = [[(i + 1) * step if a == axis else n for a, n in enumerate(x.shape)] for i in range(parts)]
    return [F.slice(x, start=start, stop=stop) for start, stop in zip(starts, stops, strict=True)]


def to_first(x: nn.Variable, mode: Mode) -> nn.Variable:
    """A map in the mode's layout, as NCHW."""
    if mode.through_python:
        return maps.to_first(x)
    return _to_first(x) if mode.channel_last else x


def to_last(x: nn.Variable, mode: Mode) -> nn.Variable:
    """An NCHW map in the mode's layout."""
    return _to_last(x) if mode.channel_last else x


def _to_first(x: nn.Variable) -> nn.Variable:
    return F.transpose(x, (0, 3, 1, 2))


def _to_last(x: nn.Variable) -> nn.Variable:
    return F.transpose(x, (0, 2, 3, 1))
