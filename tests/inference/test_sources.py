# SPDX-License-Identifier: Apache-2.0
"""Pictures in (image, folder, video, faulty files) and out (jpg, mp4)."""

import json
import re

import cv2
import numpy as np
import pytest

from pointdet.errors import PointDetError
from pointdet.inference.sources import Frame, Sink, describe, frame_rate, frames, is_video
from pointdet.structures import Detections


def picture(value, height=48, width=64):
    return np.full((height, width, 3), value, np.uint8)


def write_video(path, values, rate=10.0):
    code = cv2.VideoWriter.fourcc(*("mp4v" if path.suffix == ".mp4" else "MJPG"))
    writer = cv2.VideoWriter(str(path), code, rate, (64, 48))
    for value in values:
        writer.write(picture(value))
    writer.release()


def test_one_image(tmp_path):
    cv2.imwrite(str(tmp_path / "cat.PNG"), picture(70))
    (frame,) = frames(tmp_path / "cat.PNG")
    assert frame.name == "cat" and (frame.image == picture(70)).all()
    assert not is_video(tmp_path / "cat.PNG")


def test_folder_is_sorted_and_names_are_unique(tmp_path):
    suffixes = ["jpg", "PNG", "bmp", "webp", "tif"]
    for i, suffix in enumerate(suffixes):
        cv2.imwrite(str(tmp_path / f"image_{9 - i}.{suffix}"), picture(10 * i))
    cv2.imwrite(str(tmp_path / "image_9.png"), picture(200))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "more.jpg").mkdir()
    found = list(frames(tmp_path))
    assert [f.name for f in found] == ["image_5", "image_6", "image_7", "image_8", "image_9", "image_9_2"]
    assert [int(f.image[0, 0, 0]) for f in found] == [40, 30, 20, 10, 0, 200]


def test_folder_goes_on_after_a_bad_image_and_counts_it(tmp_path, caplog):
    cv2.imwrite(str(tmp_path / "a.png"), picture(1))
    (tmp_path / "b.jpg").write_bytes(b"not an image")
    (tmp_path / "c.jpg").write_bytes(b"")
    cv2.imwrite(str(tmp_path / "d.png"), picture(4))
    assert [frame.name for frame in frames(tmp_path)] == ["a", "d"]
    (warning,) = caplog.messages
    assert warning.startswith("2 of 4 images") and "b.jpg" in warning and "c.jpg" in warning


@pytest.mark.parametrize("suffix, rate", [(".mp4", 10.0), (".avi", 12.5)])
def test_video(tmp_path, suffix, rate):
    path = tmp_path / f"film{suffix}"
    write_video(path, [0, 80, 160, 240], rate)
    assert is_video(path) and frame_rate(path) == pytest.approx(rate)
    found = list(frames(path))
    assert [f.name for f in found] == [f"film_{i:06d}" for i in range(4)]
    np.testing.assert_allclose([f.image.mean() for f in found], [0, 80, 160, 240], atol=6)


def test_what_cannot_be_read_is_told_in_a_sentence_with_its_name(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.png").write_bytes(b"\x89PNG")
    for name, sentence in {
        "absent.jpg": "does not exist; give an image, a folder of images or a video",
        "bad.jpg": "not an image that can be decoded",
        "bad.mp4": "is neither an image nor a video that OpenCV can read",
        "empty": "holds no images",
        "broken": "none of the 1 images",
    }.items():
        with pytest.raises(PointDetError, match=re.escape(name)) as error:
            list(frames(tmp_path / name))
        assert sentence in str(error.value)


def test_sink_of_images(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), picture(0))
    sink = Sink(tmp_path / "a.png", tmp_path / "out" / "deep")
    sink.write(Frame("a", picture(0)), picture(120))
    sink.write(Frame("a", picture(0)), picture(60), "_heatmap")
    sink.close()
    written = sorted((tmp_path / "out" / "deep").iterdir())
    assert [path.name for path in written] == ["a.jpg", "a_heatmap.jpg"]
    np.testing.assert_allclose(cv2.imread(str(written[0])), picture(120), atol=2)


def test_sink_of_a_video(tmp_path):
    write_video(tmp_path / "film.avi", [0, 50, 100], rate=12.5)
    sink = Sink(tmp_path / "film.avi", tmp_path / "out")
    for frame in frames(tmp_path / "film.avi"):
        sink.write(frame, frame.image + 40)
        sink.write(frame, picture(7, 31, 45), "_heatmap")  # odd sides
    sink.close()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["film.mp4", "film_heatmap.mp4"]
    assert frame_rate(tmp_path / "out" / "film.mp4") == pytest.approx(12.5)
    means = [frame.image.mean() for frame in frames(tmp_path / "out" / "film.mp4")]
    np.testing.assert_allclose(means, [40, 90, 140], atol=8)
    assert next(frames(tmp_path / "out" / "film_heatmap.mp4")).image.shape == (30, 44, 3)


def test_sink_that_cannot_write_says_where(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PointDetError, match="file"):
        Sink(tmp_path / "a.png", tmp_path / "file" / "out").write(Frame("a", picture(0)), picture(0))


def test_description_is_json_in_full_precision():
    found = Detections(
        np.array([[0.1, 1, 2, 3]], np.float32), np.array([1], np.int64), np.array([0.7], np.float32)
    )
    entry = json.loads(json.dumps(describe("a", found, ["cat", "dog"])))
    box, score = [0.1, 1, 2, 3], np.float32(0.7)
    assert entry["name"] == "a"
    (detection,) = entry["detections"]
    assert detection["class"] == "dog" and detection["label"] == 1
    assert np.float32(detection["score"]) == score and detection["score"] == float(score)
    assert (np.float32(detection["box_x1y1x2y2"]) == np.float32(box)).all()
