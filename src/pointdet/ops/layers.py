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
from dataclasses import dataclass, replace

import nnabla as nn
import nnabla.functions as F
import nnabla.random
import numpy as np
from nnabla.parameter import get_parameter_or_create

from pointdet.arrays import Float32Array
from pointdet.ops.cpu import convolution, normalisation

Initialiser = Callable[[tuple[int, ...]], Float32Array]

_initialise = ContextVar("initialise", default=True)


@dataclass(frozen=True)
class Mode:
    """How the graph of a network is built."""

    training: bool  # normalise with batch statistics and update the running ones; else use the running ones
    channel_last: bool = False  # NHWC, else NCHW
    has_channel_last: bool = False  # the device has NHWC functions; else transposes surround each NHWC layer
    kernels: str = "nnabla"  # "blas" or "onednn": a float32 graph on the CPU that is not saved
    recompute: bool = False  # gradient checkpointing before normalisations and inside residual units
    norm_context: nn.Context | None = None  # for batch normalisation, if not that of the other layers

    @property
    def through_python(self) -> bool:
        """Whether layers are the Python functions of `ops.cpu`, which are NCHW only."""
        return self.kernels != "nnabla" and not self.channel_last

    @property
    def channel_axis(self) -> int:
        return 3 if self.channel_last else 1

    @property
    def wrapped(self) -> bool:
        """Whether NHWC layers are computed as NCHW layers between two transposes."""
        return self.channel_last and not self.has_channel_last

    @property
    def unwrapped(self) -> Mode:
        """The mode between the transposes."""
        return replace(self, channel_last=False)


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
    x: nn.Variable, w: nn.Variable, b: nn.Variable | None, mode: Mode, stride: int = 1
) -> nn.Variable:
    """Convolution with an odd kernel and "same" padding."""
    if mode.wrapped:
        return _to_last(convolve(_to_first(x), _to_first(w), b, mode.unwrapped, stride))
    pad = w.shape[1 if mode.channel_last else 2] // 2
    if mode.through_python:
        return convolution.convolution(x, w, b, pad=pad, stride=stride, library=mode.kernels)
    return F.convolution(x, w, b, pad=(pad, pad), stride=(stride, stride), channel_last=mode.channel_last)


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
    axis = mode.channel_axis
    shape = tuple(x.shape[axis] if i == axis else 1 for i in range(4))
    parameters = [
        _parameter(f"bn/{name}", shape, constant(value), need_grad=trainable)
        for name, value, trainable in (
            ("beta", 0, True),
            ("gamma", gamma, True),
            ("mean", 0, False),
            ("var", 1, False),
        )
    ]
    if mode.through_python:
        return normalisation.batch_normalization(
            x, parameters, decay=0.9, eps=1e-5, batch_stat=mode.training, shortcut=shortcut, relu=relu
        )
    with nn.context_scope(mode.norm_context or nn.get_current_context()):
        h = F.batch_normalization(
            x, *parameters, axes=[axis], decay_rate=0.9, eps=1e-5, batch_stat=mode.training
        )
    h = h if shortcut is None else h + shortcut
    return F.relu(h) if relu else h


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
        return convolution.deconvolution(x, w, pad=1, stride=2, library=mode.kernels)
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
    if mode.through_python and mode.kernels == "onednn":  # "blas" is not faster here
        return convolution.deconvolution(x, w, pad=pad, stride=stride, groups=channels, library=mode.kernels)
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
    return F.max_pooling(
        x, (kernel, kernel), (stride, stride), pad=(pad, pad), channel_last=mode.channel_last
    )


def colour(images: nn.Variable, matrix: nn.Variable, mode: Mode) -> nn.Variable:
    """Apply one affine colour matrix (B, C, 4) to each of the uint8 images (B, H, W, 3).

    The result has C channels and the mode's layout. One small matrix product per image does jitter,
    normalisation, channel order and layout.
    """
    b, height, width, _ = images.shape
    c = matrix.shape[1]
    pixels = F.reshape(images, (b, height * width, 3))
    linear = F.slice(matrix, start=(0, 0, 0), stop=(b, c, 3))
    shift = F.slice(matrix, start=(0, 0, 3), stop=(b, c, 4))
    if mode.channel_last:
        mixed = F.batch_matmul(pixels, linear, transpose_b=True) + F.reshape(shift, (b, 1, c))
        return F.reshape(mixed, (b, height, width, c))
    mixed = F.batch_matmul(linear, pixels, transpose_b=True) + shift
    return F.reshape(mixed, (b, c, height, width))


def to_first(x: nn.Variable, mode: Mode) -> nn.Variable:
    """A map in the mode's layout, as NCHW."""
    return _to_first(x) if mode.channel_last else x


def to_last(x: nn.Variable, mode: Mode) -> nn.Variable:
    """An NCHW map in the mode's layout."""
    return _to_last(x) if mode.channel_last else x


def _to_first(x: nn.Variable) -> nn.Variable:
    return F.transpose(x, (0, 3, 1, 2))


def _to_last(x: nn.Variable) -> nn.Variable:
    return F.transpose(x, (0, 2, 3, 1))
