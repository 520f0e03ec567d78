# SPDX-License-Identifier: Apache-2.0
"""Loss terms against NumPy. The published values are tested in tests/detectors."""

from functools import partial

import nnabla as nn
import numpy as np
import pytest

from pointdet.ops.losses import gather_cells, heatmap_focal, masked_l1, masked_smooth_l1, pull_and_push

RNG = np.random.default_rng(0)
# The context of a GPU. Without the CUDA extension NNabla runs its CPU functions in it.
GPU = nn.Context(["cudnn:float", "cuda:float", "cpu:float"], "CpuCachedArray", "0")


def run(function, *arrays):
    output = function(*(nn.Variable.from_numpy_array(np.asarray(a, np.float32)) for a in arrays))
    output.forward()
    return output.d.copy()


@pytest.mark.parametrize("kernels", ["nnabla", "blas"])
def test_heatmap_focal(kernels):
    logits = RNG.standard_normal((3, 2, 4, 5))
    heatmap = RNG.random((3, 2, 4, 5)) * 0.99
    heatmap[0, 1, 2, 3] = heatmap[2, 0, 0, 0] = 1
    weight = np.array([1, 0, 1])
    p = 1 / (1 + np.exp(-logits))
    cells = np.where(
        heatmap == 1,
        -((1 - p) ** 2) * np.log(p),
        -((1 - heatmap) ** 4) * p**2 * np.log(1 - p),
    )
    total = (cells.sum((1, 2, 3)) * weight).sum()
    focal = partial(heatmap_focal, kernels=kernels)
    assert run(focal, logits, heatmap, weight, 2.0) == pytest.approx(total / 2, rel=1e-5)
    # A batch without objects is divided by one.
    assert run(focal, logits, heatmap, weight, 0.0) == pytest.approx(total, rel=1e-5)


def test_heatmap_focal_on_a_gpu():
    """Product and sum as on a GPU, here with NNabla's CPU functions, agree with the matrix product in value and
    gradients."""
    rng = np.random.default_rng(1)
    heatmap = np.maximum(rng.random((3, 5, 32, 40), np.float32) * 4 - 3, 0)
    heatmap[0, 4, 2, 3] = heatmap[2, 0, 0, 0] = 1
    found, functions = [], []
    for context in (nn.Context(["cpu:float"], "CpuCachedArray"), GPU):
        logits = nn.Variable.from_numpy_array(3 * np.random.default_rng(2).standard_normal(heatmap.shape))
        logits.need_grad = True
        logits.grad.zero()
        targets = [nn.Variable.from_numpy_array(np.array(a, np.float32)) for a in (heatmap, [1, 0, 1], 2)]
        with nn.context_scope(context):
            loss = heatmap_focal(logits, *targets)
        loss.forward(clear_no_need_grad=True)
        loss.backward(1.0, clear_buffer=True)
        found.append((float(loss.d), logits.g.copy()))
        names: list[str] = []
        loss.visit(lambda function, names=names: names.append(function.info.type_name))
        functions.append(names)
    (value, gradient), (other_value, other_gradient) = found
    assert other_value == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(other_gradient, gradient, rtol=0, atol=1e-6 * np.abs(gradient).max())
    assert not gradient[1].any() and gradient[2].all()
    assert [names.count("BatchMatmul") for names in functions] == [2, 0]


def test_gather_cells():
    maps = RNG.standard_normal((2, 3, 4, 5)).astype(np.float32)
    y, x = np.array([[0, 3, 1], [2, 2, 0]]), np.array([[4, 0, 1], [3, 3, 0]])
    found = run(gather_cells, maps, y * 5 + x)
    expected = np.stack([maps[image][:, y[image], x[image]].T for image in range(2)])
    np.testing.assert_array_equal(found, expected)


def test_masked_l1():
    predicted, target = RNG.standard_normal((2, 4, 2)), RNG.standard_normal((2, 4, 2))
    mask = np.array([[1, 1, 0, 0], [1, 0, 0, 0]])
    expected = (np.abs(predicted - target).sum(2) * mask).sum()
    assert run(masked_l1, predicted, target, mask, 3.0) == pytest.approx(expected / (6 + 1e-4), rel=1e-5)
    assert run(masked_l1, predicted, target, 0 * mask, 0.0) == 0


def test_masked_smooth_l1():
    predicted, target = 2 * RNG.standard_normal((2, 4, 2)), RNG.standard_normal((2, 4, 2))
    mask = np.array([[1, 1, 0, 1], [1, 0, 0, 0]])
    distance = np.abs(predicted - target)
    expected = np.where(distance < 1, distance**2 / 2, distance - 0.5).sum(2) * mask
    found = run(masked_smooth_l1, predicted, target, mask, 4.0)
    assert found == pytest.approx(expected.sum() / (4 + 1e-4), rel=1e-5)
    assert run(masked_smooth_l1, predicted, target, 0 * mask, 0.0) == 0


def test_pull_and_push():
    first, second = RNG.standard_normal((4, 7)), RNG.standard_normal((4, 7))
    mask = np.arange(7) < np.array([[5], [2], [1], [0]])
    pull, push = np.zeros(4), np.zeros(4)
    for image, count in enumerate(mask.sum(axis=1)):
        mean = (first[image] + second[image]) / 2
        for j in range(count):
            pull[image] += ((first[image, j] - mean[j]) ** 2 + (second[image, j] - mean[j]) ** 2) / count
            for k in set(range(count)) - {j}:
                push[image] += max(0, 1 - abs(mean[j] - mean[k])) / (count * (count - 1))
    np.testing.assert_allclose(run(lambda *a: pull_and_push(*a)[0], first, second, mask), pull, rtol=2e-4)
    np.testing.assert_allclose(run(lambda *a: pull_and_push(*a)[1], first, second, mask), push, rtol=2e-4)
