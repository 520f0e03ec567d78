# SPDX-License-Identifier: Apache-2.0
"""The deformable layer in every layout, mode and precision; names and initial values of its parameters."""

from dataclasses import replace

import networks
import nnabla as nn
import nnabla.functions as F
import numpy as np
import pytest
from nnabla.ext_utils import get_extension_context

from pointdet.ops.deformable import deform_conv, deform_conv_norm
from pointdet.ops.mode import Mode

FIRST, LAST = Mode(training=False), Mode(training=False, channel_last=True)
MODES = {
    "NCHW": FIRST,
    "NHWC": LAST,
    "NCHW, BLAS": replace(FIRST, kernels="blas"),
    "NHWC, BLAS": replace(LAST, kernels="blas"),
    "inference, BLAS": replace(FIRST, kernels="blas", backward=False),
}
KEYS = {
    "conv/W": "weight",
    "conv/b": "bias",
    "offset/conv/W": "conv_offset_mask.weight",
    "offset/conv/b": "conv_offset_mask.bias",
}


def layer(x, channels, mode):
    """Output, as NCHW, of the layer for an NCHW array, with parameters from the formula."""
    turned = x.transpose(0, 2, 3, 1) if mode.maps_last else x
    output = deform_conv(nn.Variable.from_numpy_array(turned, need_grad=True), channels, mode)
    for name, key in KEYS.items():
        parameter = nn.get_parameters()[name]
        shape = np.array(parameter.shape)
        if mode.channel_last and len(shape) == 4:
            shape = shape[[0, 3, 1, 2]]
        value = networks.formula(f"dcn.{key}", shape, name.split("/")[-1], "", 1)
        parameter.d = value.transpose(0, 2, 3, 1) if mode.channel_last and value.ndim == 4 else value
    return F.transpose(output, (0, 3, 1, 2)) if mode.maps_last else output


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_golden(golden, mode):
    arrays = golden("deformable.npz")
    output = layer(arrays["layer/x"], 8, mode)
    output.forward()
    np.testing.assert_allclose(output.d, arrays["layer/y"], rtol=0, atol=2e-6)


@pytest.mark.parametrize("mode", [FIRST, LAST], ids=["NCHW", "NHWC"])
def test_half_precision(mode):
    """Positions are not rounded to half precision, which on a wide map is 1/16 of a cell."""
    x = np.random.default_rng(0).standard_normal((1, 2, 3, 200)).astype(np.float32)
    outputs, gradients = [], []
    for precision in ("float", "half"):
        nn.clear_parameters()
        with nn.context_scope(get_extension_context("cpu", type_config=precision)):
            output = layer(x, 4, mode)
            for parameter in nn.get_parameters().values():
                parameter.grad.zero()
            output.forward()
            output.backward(1.0)
            outputs.append(output.d.astype(np.float32))
            gradients.append(nn.get_parameters()["conv/W"].g.astype(np.float32))
    for single, half in (outputs, gradients):
        assert np.abs(half - single).max() <= 4e-3 * np.abs(single).max()


def test_initial_layer_is_half_a_convolution():
    nn.seed(0)
    x = nn.Variable.from_numpy_array(np.random.default_rng(0).standard_normal((2, 6, 5, 7)))
    output = deform_conv(x, 4, FIRST)
    expected = 0.5 * F.convolution(x, nn.get_parameters()["conv/W"], pad=(1, 1))
    F.sink(output, expected).forward()
    np.testing.assert_allclose(output.d, expected.d, rtol=0, atol=1e-5)
    assert np.abs(nn.get_parameters()["conv/W"].d).max() <= 1 / np.sqrt(6 * 9)


@pytest.mark.parametrize("mode", [FIRST, LAST], ids=["NCHW", "NHWC"])
def test_names_and_shapes(mode):
    with nn.parameter_scope("node"):
        deform_conv_norm(nn.Variable((1, 5, 8, 2) if mode.channel_last else (1, 2, 5, 8)), 8, mode)
    kernel = (3, 3, 2) if mode.channel_last else (2, 3, 3)
    statistics = (1, 1, 1, 8) if mode.channel_last else (1, 8, 1, 1)
    assert {name: v.shape for name, v in nn.get_parameters(grad_only=False).items()} == {
        "node/conv/W": (8, *kernel),
        "node/conv/b": (8,),
        "node/offset/conv/W": (27, *kernel),
        "node/offset/conv/b": (27,),
        **{f"node/bn/{name}": statistics for name in ("beta", "gamma", "mean", "var")},
    }
