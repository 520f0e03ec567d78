# SPDX-License-Identifier: Apache-2.0
"""The options size_per_class and regression_loss against the official code (--cat_spec_wh, --reg_loss sl1)."""

import numpy as np
import pytest
from ctdet_losses import CLAMP, OUTPUTS, case, run

from pointdet.config.schema import CtDetConfig
from pointdet.detectors.ctdet.codec import CtDetCodec
from pointdet.detectors.ctdet.loss import CtDetLoss
from pointdet.structures import Annotation

LOSSES = {
    "sl1": (CtDetLoss(regression="smooth_l1"), OUTPUTS),
    "cat_spec_wh": (CtDetLoss(size_per_class=True), OUTPUTS | {"size": "wh_cat"}),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_golden(golden, name):
    z, batch, _ = case(golden, "ctdet", "default")
    options = golden("ctdet_options.npz")
    loss, outputs = LOSSES[name]
    if loss.size_per_class:
        batch["label"] = options["batch/label"]
    stack = {ours: (z | options)[f"pred/{theirs}"][0] for ours, theirs in outputs.items()}
    inside = np.abs(stack["heatmap"]) <= CLAMP
    stack["heatmap"] = np.clip(stack["heatmap"], -CLAMP, CLAMP)
    terms, (gradients,) = run(loss, [stack], batch)
    for ours, theirs in {
        "heatmap": "hm_loss",
        "size": "wh_loss",
        "offset": "off_loss",
        "total": "loss",
    }.items():
        assert terms[ours] == pytest.approx(float(options[f"{name}/{theirs}_f64"]), rel=1e-5)
    for ours, theirs in outputs.items():
        found, wanted = gradients[ours], options[f"{name}/grad_{theirs}_f64"][0]
        if ours == "heatmap":
            found, wanted = found[inside], wanted[inside]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-8)


def codec_of(num_classes, **settings):
    return CtDetCodec.of(CtDetConfig(**settings), num_classes, 128, 128)


@pytest.mark.parametrize("size_per_class", [True, False])
def test_detections_are_golden(golden, size_per_class):
    """With a size for each class; and of a network without an offset head, whose centres are those of the cells."""
    maps, options = golden("ctdet_codec.npz"), golden("ctdet_options.npz")
    found = codec_of(5, size_per_class=size_per_class).decode(
        {
            "heatmap": maps["decode/heatmap"],
            "size": options["decode/size"] if size_per_class else maps["decode/size"],
            "offset": maps["decode/offset"] if size_per_class else np.full((2, 32, 40), 0.5, np.float32),
        },
        100,
    )
    expected = options["decode/best100" if size_per_class else "decode/no_offset100"]
    np.testing.assert_allclose(found.boxes, 4 * expected[:, :4], rtol=1e-5, atol=2e-5)
    np.testing.assert_array_equal(found.scores, expected[:, 4])
    np.testing.assert_array_equal(found.labels, expected[:, 5])


def test_decode_is_the_inverse_of_encode():
    codec = codec_of(3, size_per_class=True, max_objects=4)
    targets = {name: np.full(shape, np.nan, np.float32) for name, shape in codec.target_shapes().items()}
    boxes = np.array([[8, 8, 40, 60], [50, 60, 120, 100], [60, 10, 90, 30]], np.float32)
    codec.encode(Annotation.of(boxes.tolist(), [2, 0, 2]), targets)
    np.testing.assert_array_equal(targets["label"], [2, 0, 2, 0])
    maps = codec.maps_from_targets(targets)
    assert maps["size"].shape == (6, 32, 32) and not maps["size"][2:4].any()
    found = codec.decode(maps, 3)
    order = np.lexsort(found.boxes.T)
    np.testing.assert_allclose(found.boxes[order], boxes[np.lexsort(boxes.T)], atol=1e-4)
    assert sorted(found.labels.tolist()) == [0, 2, 2]
