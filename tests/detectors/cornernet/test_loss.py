# SPDX-License-Identifier: Apache-2.0
"""The loss against published values and gradients and values calculated by hand; saturated logits."""

import nnabla as nn
import numpy as np
import pytest
from corners import CLAMP, first_cells, placed, push_constant

from pointdet.config.schema import CornerNetConfig
from pointdet.detectors.cornernet.loss import CornerNetLoss

CORNERS = ("top_left", "bottom_right")
NAMES = [f"{corner}_{name}" for corner in CORNERS for name in ("heatmap", "tag", "offset")]
PUBLISHED = CornerNetLoss(0.1, 0.1, 1.0, "published")
KERNELS = {}


@pytest.fixture(params=["nnabla", "blas"], autouse=True)
def kernels(request, monkeypatch):
    """All tests also run with the functions of `ops.cpu`."""
    monkeypatch.setitem(KERNELS, "kernels", request.param)
    return request.param


def variables(arrays, need_grad=False):
    return {name: nn.Variable.from_numpy_array(a, need_grad=need_grad) for name, a in arrays.items()}


def complete(targets):
    """Targets with weight and positives."""
    targets = {"weight": np.ones(len(targets["mask"])), **targets}
    for corner in CORNERS:
        targets[f"{corner}_positives"] = (targets[f"{corner}_heatmap"] == 1).sum((1, 2, 3))[:, None]
    return {name: np.asarray(array, np.float32) for name, array in targets.items()}


def run(loss, stacks, targets, counts=None):
    """Terms and the gradients of the total with respect to every output of every stack."""
    targets = complete(targets)
    counts = loss.count(targets) if counts is None else counts
    outputs = [variables(stack, need_grad=True) for stack in stacks]
    divisors = dict(
        zip(loss.divisors, (nn.Variable.from_numpy_array(np.float32(c)) for c in counts), strict=True)
    )
    terms = loss(outputs, variables(targets), divisors, **KERNELS)
    for term in terms.values():
        term.persistent = True
    for stack in outputs:
        for output in stack.values():
            output.grad.zero()
    terms["total"].forward()
    terms["total"].backward()
    values = {name: float(term.d) for name, term in terms.items()}
    return values, [{name: v.g.copy() for name, v in stack.items()} for stack in outputs]


@pytest.fixture
def case(golden):
    """system -> golden arrays, outputs of both stacks, targets. Tags and offsets are maps."""

    def load(system):
        z = {
            k.partition("/")[2]: v for k, v in golden("cornernet_losses.npz").items() if k.startswith(system)
        }
        targets = {k.partition("/")[2]: v for k, v in z.items() if k.startswith("target/")}
        if system == "cornernet":  # its tags and offsets are values of the objects
            for corner in CORNERS:
                targets[f"{corner}_index"] = np.tile(np.arange(10), (2, 1))
                z[f"{corner}_tag"] = z[f"{corner}_tag"][..., None]
                for name in ("tag", "offset"):
                    z[f"{corner}_{name}"] = np.stack([placed(stack) for stack in z[f"{corner}_{name}"]])
        stacks = [{name: z[name][stack] for name in NAMES} for stack in range(2)]
        # Clamping the probability is clipping the logit.
        clipped = [
            {name: np.clip(a, -CLAMP, CLAMP) if "heatmap" in name else a for name, a in stack.items()}
            for stack in stacks
        ]
        return z, clipped, targets

    return load


@pytest.mark.parametrize("system", ["cornernet", "simple"])
def test_published_totals_and_gradients(system, case):
    z, stacks, targets = case(system)
    terms, gradients = run(PUBLISHED, stacks, targets)
    rest = push_constant(targets["mask"])
    assert terms["total"] + 0.1 * rest == pytest.approx(float(z["total"]), rel=1e-5)
    if system == "simple":
        for name in ("heatmap", "pull", "push", "offset"):
            value = terms[name] + rest * (name == "push")
            assert value == pytest.approx(float(z[name]), rel=1e-5), name
    for stack, found in enumerate(gradients):
        for name in NAMES:
            ours, wanted = found[name], z[f"gradient/{name}"][stack]
            if system == "cornernet" and "heatmap" not in name:
                ours = first_cells(ours, 10).reshape(wanted.shape)
            inside = np.abs(z[name][stack]) < CLAMP if "heatmap" in name else np.full(ours.shape, True)
            assert inside.sum() > 0.98 * inside.size
            np.testing.assert_allclose(ours[inside], wanted[inside], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("objects", ["all", "first_image_empty", "one_object_each", "no_objects"])
@pytest.mark.parametrize("term", ["pull", "push", "offset"])
def test_published_terms(objects, term, golden, case):
    z = {
        k.removeprefix(f"tags/{objects}/"): v
        for k, v in golden("cornernet_losses.npz").items()
        if objects in k
    }
    _, (stack, _), targets = case("cornernet")
    targets["mask"] = z["mask"]
    weights = {f"{name}_weight": float(name == term) for name in ("pull", "push", "offset")}
    loss = CornerNetLoss(**weights, embedding_loss="published")
    if term == "offset":  # golden for the top left corner only
        stack = {**stack, "bottom_right_offset": placed(targets["bottom_right_offset"])}
    terms, (gradients,) = run(loss, [stack], targets)
    rest = push_constant(z["mask"]) if term == "push" else 0.0
    assert terms[term] + rest == pytest.approx(float(z[term]), rel=1e-5, abs=1e-6)
    if term == "offset":
        found, wanted = first_cells(gradients["top_left_offset"], 10), z["offset_gradient"]
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-8)
    else:
        for corner in CORNERS:
            found = first_cells(gradients[f"{corner}_tag"], 10)[..., 0]
            np.testing.assert_allclose(found, z[f"{term}_gradient/{corner}"], rtol=1e-5, atol=1e-7)


def test_no_positives(golden, case):
    z = golden("cornernet_losses.npz")
    _, (stack, _), targets = case("cornernet")
    targets["mask"] = 0 * targets["mask"]
    targets["top_left_heatmap"] = z["no_positives/heatmap"]
    targets["bottom_right_heatmap"] = 0 * targets["bottom_right_heatmap"]
    stack["bottom_right_heatmap"] = np.full_like(stack["bottom_right_heatmap"], -60)  # adds nothing
    terms, (gradients,) = run(PUBLISHED, [stack], targets)
    assert terms["heatmap"] == pytest.approx(float(z["no_positives/value"]), rel=1e-5)
    inside = np.abs(stack["top_left_heatmap"]) < CLAMP
    found, wanted = gradients["top_left_heatmap"][inside], z["no_positives/gradient"][inside]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-8)
    assert terms["total"] == terms["heatmap"]


def scene(tags=(), offsets=(), heatmaps=None, logits=None):
    """One stack and targets of small maps. tags: (B, M, 2) of both corners; offsets: errors (M, 2)."""
    objects = max((len(image) for image in tags), default=len(offsets))
    batch = max(len(tags), 1)
    stack, targets = {}, {"mask": np.zeros((batch, max(objects, 1)))}
    for corner in range(2):
        name = CORNERS[corner]
        values = np.zeros((batch, max(objects, 1), 3), np.float32)
        for image, rows in enumerate(tags):
            values[image, : len(rows), 0] = np.array(rows)[:, corner]
            targets["mask"][image, : len(rows)] = 1
        if offsets:
            values[0, :, 1:] = offsets if corner == 0 else 0
            targets["mask"][0] = 1
        stack[f"{name}_tag"], stack[f"{name}_offset"] = (
            placed(values[..., :1], 2, 4),
            placed(values[..., 1:], 2, 4),
        )
        targets[f"{name}_offset"] = np.zeros((batch, max(objects, 1), 2))
        targets[f"{name}_index"] = np.tile(np.arange(max(objects, 1)), (batch, 1))
        targets[f"{name}_heatmap"] = np.zeros((batch, 1, 2, 4)) if heatmaps is None or corner else heatmaps
        shape = targets[f"{name}_heatmap"].shape
        stack[f"{name}_heatmap"] = np.full(shape, -60.0) if logits is None or corner else logits
    return [stack], targets


TWO = [(1.0, 1.5), (2.0, 2.6)]


@pytest.mark.parametrize(
    ("tags", "pull", "push"),
    [
        ([TWO], 0.152492, 0.00005),
        ([TWO, [(0.5, 0.9)]], 0.232484, 1.0002),
        ([[(1, 1.5), (1.2, 1.6), (3, 2.6)]], 0.094997, 0.28333),
    ],
)
def test_pull_and_push_calculated_by_hand(tags, pull, push):
    stacks, targets = scene(tags)
    summed, _ = run(PUBLISHED, stacks, targets)
    assert summed["pull"] == pytest.approx(pull, abs=1e-6)
    assert summed["push"] + push_constant(targets["mask"]) == pytest.approx(push, abs=5e-5)
    mean, _ = run(CornerNetLoss(), stacks, targets)
    for name in ("pull", "push"):
        assert mean[name] == pytest.approx(summed[name] / len(tags), rel=1e-6)


def test_five_hundred_objects():
    rng = np.random.default_rng(4)
    tags, offsets = rng.normal(0, 20, (500, 2)), rng.normal(0, 1, (1, 500, 2))
    stack = {f"{c}_heatmap": np.full((1, 1, 20, 25), -60.0) for c in CORNERS}
    targets = {"mask": np.ones((1, 500))}
    for c, column in zip(CORNERS, tags.T, strict=True):
        stack[f"{c}_tag"] = placed(column[None, :, None], 20, 25)
        stack[f"{c}_offset"] = placed(offsets, 20, 25)
        targets[f"{c}_offset"], targets[f"{c}_index"] = 0 * offsets, np.arange(500)[None]
        targets[f"{c}_heatmap"] = np.zeros((1, 1, 20, 25))
    terms, _ = run(CornerNetLoss(), [stack], targets)
    close = np.maximum(1 - np.abs(np.subtract.outer(tags.mean(axis=1), tags.mean(axis=1))), 0)
    assert terms["push"] == pytest.approx((close.sum() - 500) / (500 * 499), rel=1e-4)
    assert terms["pull"] == pytest.approx(np.mean((tags[:, 0] - tags[:, 1]) ** 2) / 2, rel=1e-5)
    error = np.abs(offsets)
    each = np.where(error < 1, error**2 / 2, error - 0.5).sum() / 500
    assert terms["offset"] == pytest.approx(2 * each, rel=1e-5)


@pytest.mark.parametrize(
    ("heatmap", "logits", "expected"),
    [
        ((0, 1, 0.5, 0), (-2, 1, 0, -3), 0.0354013),
        ((0, 0, 0, 0), (-2, 1, 0, -3), 0.877068),
        ((0, 1, 0.5, 0), (CLAMP, -CLAMP, 0, -3), 18.42777),
    ],
)
def test_heatmap_calculated_by_hand(heatmap, logits, expected):
    shape = (1, 1, 1, 4)
    stacks, targets = scene(heatmaps=np.reshape(heatmap, shape), logits=np.float32(logits).reshape(shape))
    targets["bottom_right_heatmap"] = np.zeros(shape)
    assert run(PUBLISHED, stacks, targets)[0]["heatmap"] == pytest.approx(expected, rel=1e-5)


def test_heatmap_at_the_start_of_training():
    heatmap = np.zeros((1, 80, 128, 128), np.float32)
    heatmap.reshape(-1)[:: heatmap.size // 10][:10] = 1
    stacks, targets = scene(heatmaps=heatmap, logits=np.full_like(heatmap, -2.19))
    assert run(PUBLISHED, stacks, targets)[0]["heatmap"] == pytest.approx(142.72, abs=0.01)


def test_offset_calculated_by_hand():
    stacks, targets = scene(offsets=[(1.7, -0.2), (-0.1, -0.9)])
    assert run(PUBLISHED, stacks, targets)[0]["offset"] == pytest.approx(0.814959, abs=1e-6)


@pytest.mark.parametrize("logit", [-30.0, 30.0])
def test_saturated_logits_stay_finite_and_keep_their_gradient(logit):
    heatmap = np.zeros((1, 1, 2, 2))
    heatmap[0, 0, 0, 0] = 1
    stacks, targets = scene(heatmaps=heatmap, logits=np.full((1, 1, 2, 2), logit))
    terms, (gradients,) = run(CornerNetLoss(), stacks, targets)
    expected = 30.0 if logit < 0 else 90.0  # one missed positive, or three confident background cells
    assert terms["heatmap"] == pytest.approx(expected, rel=1e-4)
    gradient = gradients["top_left_heatmap"][0, 0]
    gradient = gradient[0, 0] if logit < 0 else gradient[1, 1]
    assert abs(gradient) == pytest.approx(1.0, rel=1e-4)


def random_batch(images, seed=0):
    rng = np.random.default_rng(seed)
    stack, targets = {}, {"mask": (rng.random((images, 6)) < 0.6).astype(np.float32)}
    for corner in CORNERS:
        for name, channels in {"heatmap": 3, "tag": 1, "offset": 2}.items():
            stack[f"{corner}_{name}"] = rng.standard_normal((images, channels, 5, 7)).astype(np.float32)
        heatmap = rng.random((images, 3, 5, 7)) * 0.9
        heatmap[:, 1, 2, 3] = 1
        targets[f"{corner}_heatmap"] = heatmap
        targets[f"{corner}_offset"] = rng.random((images, 6, 2))
        targets[f"{corner}_index"] = rng.integers(0, 35, (images, 6))
    return stack, targets


@pytest.mark.parametrize("kind", ["mean", "published"])
def test_images_of_weight_zero_are_ignored(kind):
    loss, kept = CornerNetLoss(embedding_loss=kind), [0, 2]
    stack, targets = random_batch(3)
    weighted, (gradients,) = run(loss, [stack], {**targets, "weight": np.array([1, 0, 1])})
    part = {name: array[kept] for name, array in targets.items()}
    subset, (expected,) = run(loss, [{name: array[kept] for name, array in stack.items()}], part)
    assert weighted == pytest.approx(subset, rel=1e-6)
    for name in stack:
        np.testing.assert_allclose(gradients[name][kept], expected[name], rtol=1e-5, atol=1e-8)
        assert not gradients[name][1].any()


def test_batch_can_be_divided_among_ranks():
    stack, targets = random_batch(4)
    loss = CornerNetLoss()
    whole, (expected,) = run(loss, [stack], targets)
    parts = [[0], [1, 2, 3]]
    halves = [{name: array[part] for name, array in targets.items()} for part in parts]
    counts = sum(loss.count(complete(half)) for half in halves)
    np.testing.assert_array_equal(counts, loss.count(complete(targets)))
    totals = dict.fromkeys(whole, 0.0)
    for part, half in zip(parts, halves, strict=True):
        terms, (gradients,) = run(loss, [{n: a[part] for n, a in stack.items()}], half, counts)
        totals = {name: totals[name] + terms[name] for name in totals}
        for name in stack:
            np.testing.assert_allclose(gradients[name], expected[name][part], rtol=1e-4, atol=1e-7)
    assert totals == pytest.approx(whole, rel=1e-5)


def test_published_pull_and_push_are_sums_of_a_batch_and_means_over_batches():
    stack, targets = random_batch(4)
    published, _ = run(PUBLISHED, [stack], targets)
    mean, _ = run(CornerNetLoss(), [stack], targets)
    assert published["pull"] == pytest.approx(4 * mean["pull"], rel=1e-5)
    halved, _ = run(PUBLISHED, [stack], targets, PUBLISHED.count(complete(targets)) * [1, 1, 1, 2])
    assert halved["push"] == pytest.approx(published["push"] / 2, rel=1e-5)


def test_settings():
    loss = CornerNetLoss.of(
        CornerNetConfig(pull_weight=0.1, push_weight=0.2, offset_weight=3, embedding_loss="published")
    )
    stack, targets = random_batch(2)
    terms, _ = run(loss, [stack, stack], targets)
    expected = terms["heatmap"] + 0.1 * terms["pull"] + 0.2 * terms["push"] + 3 * terms["offset"]
    assert terms["total"] == pytest.approx(expected, rel=1e-6)
