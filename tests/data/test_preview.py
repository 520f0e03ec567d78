# SPDX-License-Identifier: Apache-2.0
"""Previews of every detector's targets: boxes decoded from the targets, with the heatmaps next to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from pointdet.codec import Codec
from pointdet.config import schema
from pointdet.data import preview
from pointdet.data.augment import Augmenter
from pointdet.data.loader import Loader
from pointdet.detectors.cornernet.codec import CornerNetCodec
from pointdet.detectors.ctdet.codec import CtDetCodec
from pointdet.structures import Annotation, Dataset, Record

PLAIN = schema.AugmentConfig(flip=0, crop=False, shift=0, scale=0, colour=0)
CODECS = {
    "ctdet": (CtDetCodec.of(schema.CtDetConfig(), 3, 64, 64), schema.InputConfig(height=64, width=64), 1),
    "cornernet": (
        CornerNetCodec.of(schema.CornerNetConfig(), 3, 63, 63),
        schema.InputConfig(height=63, width=63),
        2,
    ),
}


@pytest.mark.parametrize(("codec", "settings", "heatmaps"), CODECS.values(), ids=CODECS)
def test_boxes_and_heatmaps(
    codec: Codec,
    settings: schema.InputConfig,
    heatmaps: int,
    tmp_path: Path,
    write_image: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    draw = preview.draw_detections
    monkeypatch.setattr(preview, "draw_detections", lambda *a: found.append(a[1]) or draw(*a))
    annotation = Annotation.of([[5, 5, 30, 30], [20, 10, 50, 38]], [0, 2])
    path = str(write_image(tmp_path / "image.png"))
    dataset = Dataset("toy", (Record(0, path, 40, 60, annotation),), ("a", "b", "c"), (1, 2, 3))
    with Loader(dataset, Augmenter(PLAIN, settings), codec, 1, seed=0, workers=0) as loader:
        (written,) = preview.write_previews(loader, codec, settings, "abc", tmp_path / "preview", 1)
    side = settings.height
    assert cv2.imread(str(written)).shape == (side, side * (1 + heatmaps), 3)
    (boxes,) = found
    assert sorted(boxes[boxes.scores > 0.999].labels.tolist()) == [0, 2]
