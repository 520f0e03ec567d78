# SPDX-License-Identifier: Apache-2.0
"""The loss against published values and gradients and a NumPy reference; saturated logits."""

import ctdet_losses
import nnabla as nn
import nnabla.functions as F
import numpy as np
import pytest
from ctdet_losses import CLAMP, OUTPUTS, case, run

from pointdet.detectors.ctdet.loss import CtDetLoss
from pointdet.runtime import start


@pytest.fixture(params=["nnabla", "blas"], autouse=True)
def kernels(request, monkeypatch):
    """All tests also run with the functions of `ops.cpu`."""
    monkeypatch.setitem(ctdet_losses.KERNELS, "kernels", request.param)
    return request.param


def half(output):
    """The output as the last layer of a network in half precision returns it."""
    with nn.context_scope(start().context(half=True)):
        return F.identity(output)


@pytest.mark.parametrize(
    ("name", "weights"), [("default", (1, 0.1, 1)), ("weights", (2, 0.3, 0.5)), ("nopos", (1, 0.1, 1))]
)
def test_nnabla_example(golden, name, weights):
    z, batch, expected = case(golden, "sony", name)
    terms, (gradients,) = run(CtDetLoss(*weights), [{n: z[f"pred/{p}"] for n, p in OUTPUTS.items()}], batch)
    for ours, theirs in {
        "heatmap": "hm_loss",
        "size": "wh_loss",
        "offset": "off_loss",
        "total": "loss",
    }.items():
        assert terms[ours] == pytest.approx(float(expected[theirs]), rel=1e-5)
    for ours, theirs in OUTPUTS.items():
        np.testing.assert_allclose(gradients[ours], expected[f"grad_{theirs}"], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "weights", "stacks"),
    [("default", (1, 0.1, 1), 1), ("stacks2", (1, 0.1, 1), 2), ("weights", (2, 0.3, 0.5), 1)],
)
def test_official_code(golden, name, weights, stacks):
    z, batch, expected = case(golden, "ctdet", name)
    predicted = [{n: z[f"pred/{p}"][s] for n, p in OUTPUTS.items()} for s in range(stacks)]
    saturated = [np.abs(stack["heatmap"]) > CLAMP for stack in predicted]
    # Clamping the probability is clipping the logit.
    clipped = [{**stack, "heatmap": np.clip(stack["heatmap"], -CLAMP, CLAMP)} for stack in predicted]
    terms, gradients = run(CtDetLoss(*weights), clipped, batch)
    for ours, theirs in {
        "heatmap": "hm_loss",
        "size": "wh_loss",
        "offset": "off_loss",
        "total": "loss",
    }.items():
        assert terms[ours] == pytest.approx(float(expected[f"{theirs}_f64"]), rel=1e-5)
    for s, stack in enumerate(gradients):
        for ours, theirs in OUTPUTS.items():
            found, wanted = stack[ours], expected[f"grad_{theirs}_f64"][s]
            inside = ~saturated[s] if ours == "heatmap" else np.full(found.shape, True)
            assert inside.sum() > 0.9 * inside.size
            np.testing.assert_allclose(found[inside], wanted[inside], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("logit", [-30.0, 30.0])
def test_saturated_logits_stay_finite_and_keep_their_gradient(logit):
    heatmap = np.zeros((1, 1, 2, 2), np.float32)
    heatmap[0, 0, 0, 0] = 1
    targets = {
        "heatmap": heatmap,
        "size": np.zeros((1, 1, 2)),
        "offset": np.zeros((1, 1, 2)),
        "index": np.zeros((1, 1)),
        "mask": np.ones((1, 1)),
    }
    stack = {
        "heatmap": np.full((1, 1, 2, 2), logit),
        "size": np.zeros((1, 2, 2, 2)),
        "offset": np.zeros((1, 2, 2, 2)),
    }
    terms, (gradients,) = run(CtDetLoss(), [stack], targets)
    expected = 30.0 if logit < 0 else 90.0  # one missed positive, or three confident background cells
    assert terms["heatmap"] == pytest.approx(expected, rel=1e-4)
    extreme = gradients["heatmap"][0, 0, 0, 0] if logit < 0 else gradients["heatmap"][0, 0, 1, 1]
    assert abs(extreme) == pytest.approx(1.0, rel=1e-4)


def test_images_of_weight_zero_are_ignored():
    rng = np.random.default_rng(0)
    shapes = {"heatmap": (3, 5, 7), "size": (2, 5, 7), "offset": (2, 5, 7)}
    stack = {name: rng.standard_normal((3, *shape)).astype(np.float32) for name, shape in shapes.items()}
    heatmap = rng.random((3, 3, 5, 7)).astype(np.float32) * 0.9
    heatmap[:, 1, 2, 3] = 1
    targets = {
        "heatmap": heatmap,
        "size": rng.random((3, 4, 2)).astype(np.float32),
        "offset": rng.random((3, 4, 2)).astype(np.float32),
        "index": rng.integers(0, 35, (3, 4)).astype(np.float32),
        "mask": np.ones((3, 4), np.float32),
    }
    weighted, (gradients,) = run(CtDetLoss(), [stack], {**targets, "weight": np.array([1, 0, 1], np.float32)})
    kept = [0, 2]
    subset, (expected,) = run(
        CtDetLoss(), [{n: a[kept] for n, a in stack.items()}], {n: a[kept] for n, a in targets.items()}
    )
    assert weighted == pytest.approx(subset, rel=1e-6)
    for name in stack:
        np.testing.assert_allclose(gradients[name][kept], expected[name], rtol=1e-5, atol=1e-8)
        assert not gradients[name][1].any()


def reference(stack, targets):
    """Terms and gradients of one stack with the default weights, float64."""
    x, y = np.float64(stack["heatmap"]), np.float64(targets["heatmap"])
    p, log_p, log_q = np.exp(-np.logaddexp(0, -x)), -np.logaddexp(0, -x), -np.logaddexp(0, x)
    q = np.exp(log_q)
    positives, objects = (y == 1).sum(), targets["mask"].sum()
    cells = np.where(y == 1, q**2 * log_p, (1 - y) ** 4 * p**2 * log_q)
    slope = np.where(y == 1, q**3 - 2 * p * q**2 * log_p, (1 - y) ** 4 * (2 * p**2 * q * log_q - p**3))
    terms, gradients = {"heatmap": -cells.sum() / positives}, {"heatmap": -slope / positives}
    for name, weight in (("size", 0.1), ("offset", 1.0)):
        predicted = np.float64(stack[name])
        maps, gradient = (a.reshape(*a.shape[:2], -1) for a in (predicted, np.zeros_like(predicted)))
        terms[name] = 0.0
        for image, row in np.argwhere(targets["mask"] == 1):
            cell = int(targets["index"][image, row])
            error = maps[image, :, cell] - targets[name][image, row]
            terms[name] += np.abs(error).sum() / (2 * objects + 1e-4)
            gradient[image, :, cell] += weight * np.sign(error) / (2 * objects + 1e-4)
        gradients[name] = gradient.reshape(predicted.shape)
    return {**terms, "total": terms["heatmap"] + 0.1 * terms["size"] + terms["offset"]}, gradients


@pytest.mark.parametrize("layer", [lambda output: output, half], ids=["float", "half"])
def test_outputs_of_a_network_in_half(layer, kernels):
    """Terms and gradients equal float64 up to the rounding of half, also for saturated logits."""
    if layer is half and kernels != "nnabla":
        pytest.skip("the CPU kernels are float32")
    rng = np.random.default_rng(0)
    heatmap = rng.random((2, 3, 8, 8)) * 0.95
    heatmap[:, :, ::4, ::4] = 1
    targets = {
        "heatmap": heatmap,
        "size": rng.uniform(1, 60, (2, 20, 2)),
        "offset": rng.random((2, 20, 2)),
        "index": rng.integers(0, 64, (2, 20)),
        "mask": rng.integers(0, 2, (2, 20)),
    }
    stack = {
        "heatmap": rng.uniform(-30, 30, heatmap.shape),
        "size": rng.uniform(-10, 200, (2, 2, 8, 8)),
        "offset": rng.uniform(-1, 2, (2, 2, 8, 8)),
    }
    stack["heatmap"][:, :, :2] = np.tile([-30, 30, -17, 17, -8.5, 8.5, 0, -0.01], (2, 3, 2, 1))
    stack = {name: np.float32(np.float16(array)) for name, array in stack.items()}
    targets = {name: np.float32(array) for name, array in targets.items()}
    terms, (gradients,) = run(CtDetLoss(), [stack], targets, layer, scale=1024.0)
    expected, slopes = reference(stack, targets)
    assert terms == pytest.approx(expected, rel=1e-5)
    for name, slope in slopes.items():
        assert np.abs(slope).max() > 1e-3
        np.testing.assert_allclose(gradients[name], slope, rtol=1e-3, atol=2.0**-24 / 1024, err_msg=name)
