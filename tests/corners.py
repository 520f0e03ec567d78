# SPDX-License-Identifier: Apache-2.0
"""Helpers of the tests of CornerNet and of keypoint triplets."""

import layouts
import networks
import nnabla as nn
import numpy as np

from pointdet.geometry import View
from pointdet.ops.mode import Mode

# Where the published code clamps a probability to [1e-4, 1 - 1e-4], its gradient is 0. Ours is not.
CLAMP = float(np.log((1 - 1e-4) / 1e-4))


def encoded(codec, annotation):
    """Targets in arrays with arbitrary content, and the number of objects that exceeded max_objects."""
    targets = {name: np.full(shape, np.nan, np.float32) for name, shape in codec.target_shapes().items()}
    left_out = codec.encode(annotation, targets)
    return targets, left_out


def golden_view(numbers):
    """The window of a golden case: side of the input, overlap, side of the window, its centre, whether mirrored."""
    side, overlap, window, x, y, mirrored = numbers.tolist()
    side, scale = int(side), side / window
    view = View(side, side, scale, scale, scale * (window // 2 - x), scale * (window // 2 - y))
    if mirrored:
        view = View(side, side, -scale, scale, side - 1 - view.shift_x, view.shift_y)
    return view, side, overlap


def push_constant(mask):
    """The part of the published push that has no gradient; 1 / count is float32 there, even among float64."""
    count = np.asarray(mask, np.float32).sum(axis=1)
    over_objects, over_pairs = 1 / (count + np.float32(1e-4)), count * (count - 1) + np.float32(1e-4)
    return float(np.sum((count - count.astype(np.float64) ** 2 * over_objects) / over_pairs))


def placed(gathered, height=12, width=14):
    """Maps (B, K, h, w) whose first cells have the values (B, M, K), one object after another."""
    batch, objects, channels = gathered.shape
    maps = np.zeros((batch, channels, height * width), np.float32)
    maps[..., :objects] = gathered.swapaxes(1, 2)
    return maps.reshape(batch, channels, height, width)


def first_cells(maps, objects):
    """The inverse of the function above."""
    return maps.reshape(*maps.shape[:2], -1)[..., :objects].swapaxes(1, 2)


def assert_published_pooling(arrays, entries, system, module, kernels, build, name_of):
    """Compare a pooling module with its golden arrays, in evaluation and in training.

    build(input, mode) builds it in the scope of its keypoint; name_of: published key -> our path.
    """
    nn.clear_parameters()
    rng, names = np.random.default_rng(0), {key: name_of(key) for key, _ in entries}
    values = {
        names[key]: networks.formula(f"{system}.{module}.{key}", shape, names[key].rpartition("/")[2], "", 1)
        for key, shape in entries
    }
    for training in (False, True):
        x = nn.Variable(arrays["x"].shape, need_grad=True)
        mode = Mode(training, kernels=kernels)
        y = layouts.first(build(layouts.last(x), mode)) if mode.maps_last else build(x, mode)
        parameters = nn.get_parameters(grad_only=False)
        assert set(values) == set(parameters)
        compared = ("p1_conv1.conv.weight", "conv2.bn.weight") if training else ()
        read = {"gx": x, **{f"g_{key}": parameters[names[key]] for key in compared}}

        # Some ReLUs and maxima are so close to their kink that rounding switches them. A change of the input by 1e-6
        # switches them too: the golden gradient must be within the range of the gradients of such inputs.
        step = 1e-6 * np.abs(arrays["x"]).max()
        moved = [np.float32(arrays["x"] + step * rng.standard_normal(x.shape)) for _ in range(8)]
        found = {name: [] for name in read}
        for array in (*moved, arrays["x"]):
            for name, value in values.items():
                parameters[name].d = value.reshape(parameters[name].shape)
            for v in (x, *nn.get_parameters().values()):
                v.grad.zero()
            x.d = array
            y.forward()
            y.backward(arrays["grad_output"])
            for name, variable in read.items():
                found[name].append(variable.g.copy())
        expected = arrays[f"{module}/{'train/y' if training else 'eval/y_f64'}"]
        np.testing.assert_allclose(y.d, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        for name, several in found.items():
            golden = arrays[f"{module}/{'train' if training else 'eval'}/{name}"]
            assert_among(np.reshape(several, (-1, *golden.shape)), golden)
    for statistic in ("mean", "var"):
        found = parameters[names[f"p_bn1.running_{statistic}"]].d.ravel()
        expected = arrays[f"{module}/train/running_{statistic}_p_bn1"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    nn.clear_parameters()


def assert_among(found, expected):
    """Every value is within the range of the gradients `found` (passes, ...). For most values all of them agree."""
    least, most = found.min(axis=0), found.max(axis=0)
    largest = np.abs(expected).max()
    assert np.mean(most - least <= 1e-3 * largest) > 0.7
    assert (expected - most).max() <= 1e-5 * largest
    assert (least - expected).max() <= 1e-5 * largest
