# SPDX-License-Identifier: Apache-2.0
"""Frames of images, folders, videos and cameras, and the errors of sources without frames."""

import os
import re
import socket
import threading

import cv2
import numpy as np
import pytest

from pointdet.errors import PointDetError
from pointdet.inference.sources import open_source


def frames(path):
    return open_source(str(path)).frames()


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
    source = open_source(str(tmp_path / "cat.PNG"))
    (frame,) = source.frames()
    assert frame.name == "cat" and (frame.image == picture(70)).all()
    assert (source.name, source.count, source.rate, source.sound) == ("cat", 1, None, None)


def test_folder_is_sorted_and_names_are_unique(tmp_path):
    suffixes = ["jpg", "PNG", "bmp", "webp", "tif"]
    for i, suffix in enumerate(suffixes):
        cv2.imwrite(str(tmp_path / f"image_{9 - i}.{suffix}"), picture(10 * i))
    cv2.imwrite(str(tmp_path / "image_9.png"), picture(200))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "more.jpg").mkdir()
    source = open_source(str(tmp_path))
    assert source.count == 6 and source.rate is None
    found = list(source.frames())
    assert [f.name for f in found] == ["image_5", "image_6", "image_7", "image_8", "image_9", "image_9_2"]
    assert [int(f.image[0, 0, 0]) for f in found] == [40, 30, 20, 10, 0, 200]


def test_folder_skips_broken_images_with_one_warning(tmp_path, caplog):
    cv2.imwrite(str(tmp_path / "a.png"), picture(1))
    (tmp_path / "b.jpg").write_bytes(b"not an image")
    (tmp_path / "c.jpg").write_bytes(b"")
    cv2.imwrite(str(tmp_path / "d.png"), picture(4))
    assert [frame.name for frame in frames(tmp_path)] == ["a", "d"]
    (warning,) = caplog.messages
    assert warning.startswith("2 of 4 images were skipped") and "b.jpg" in warning and "c.jpg" in warning


@pytest.mark.parametrize("suffix, rate", [(".mp4", 10.0), (".avi", 12.5)])
def test_video(tmp_path, suffix, rate):
    path = tmp_path / f"film{suffix}"
    write_video(path, [0, 80, 160, 240], rate)
    source = open_source(str(path))
    assert source.rate == pytest.approx(rate) and source.count == 4 and source.sound == path
    found = list(source.frames())
    assert [f.seconds for f in found] == pytest.approx([0, 1 / rate, 2 / rate, 3 / rate])
    assert [f.name for f in found] == [f"film_{i:06d}" for i in range(4)]
    np.testing.assert_allclose([f.image.mean() for f in found], [0, 80, 160, 240], atol=6)


def test_errors_name_the_source_that_cannot_be_read(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.png").write_bytes(b"\x89PNG")
    for name, sentence in {
        "absent.jpg": "does not exist; give an image, a folder of images, a video, or camera:0",
        "bad.jpg": "not an image that can be decoded",
        "bad.mp4": "is neither an image nor a video that OpenCV can read",
        "empty": "contains no images",
        "broken": "none of the 1 images in",
    }.items():
        with pytest.raises(PointDetError, match=re.escape(name)) as error:
            list(frames(tmp_path / name))
        assert sentence in str(error.value)


def test_closing_a_folder_early_leaves_no_threads(tmp_path):
    for i in range(30):
        cv2.imwrite(str(tmp_path / f"{i}.png"), picture(i))
    reading = frames(tmp_path)
    next(reading)
    reading.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("worker")]


def test_a_truncated_video_is_reported(tmp_path, caplog, capfd):
    path = tmp_path / "film.avi"
    rng = np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for _ in range(20):
        writer.write(rng.integers(0, 256, (48, 64, 3), np.uint8))
    writer.release()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 5 < len(list(frames(path))) < 15
    (warning,) = caplog.messages
    assert re.search(r"film.avi ends after \d+ of 20 frames", warning)
    (tmp_path / "film.mp4").write_bytes(
        b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"
    )  # the header of a video without frames
    with pytest.raises(PointDetError, match="film.mp4 is neither an image nor a video"):
        open_source(str(tmp_path / "film.mp4"))
    assert capfd.readouterr() == ("", "")


class Camera:
    """A mock of cv2.VideoCapture: a camera that delivers three pictures."""

    def __init__(self, index):
        self.index, self.left = index, 3

    def isOpened(self):
        return self.index == 2

    def get(self, key):
        return -1.0  # as cameras without a known frame rate

    def read(self):
        self.left -= 1
        return self.left >= 0, picture(self.left)

    def release(self):
        self.left = -1


def test_camera(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    source = open_source("camera:2")
    assert (source.name, source.count, source.rate, source.endless) == ("camera_2", None, 25.0, True)
    frames = source.frames()
    seen = [next(frames) for _ in range(3)]
    with pytest.raises(PointDetError, match="camera 2 delivers no more pictures"):
        next(frames)
    assert [frame.name for frame in seen] == [f"camera_2_{i:06d}" for i in range(3)]
    assert seen[0].seconds == 0 and seen[0].seconds <= seen[1].seconds <= seen[2].seconds


@pytest.mark.parametrize("location, index", [("webcam", 0), ("camera:61", 61)])
def test_error_of_a_missing_camera(location, index, capfd):
    with pytest.raises(PointDetError, match=f"camera {index} cannot be opened; connect it"):
        open_source(location)
    assert capfd.readouterr() == ("", "")  # OpenCV prints messages by default


def test_pipes_and_devices_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.mp4"))
    for path in (tmp_path / "pipe.jpg", tmp_path / "pipe.mp4", tmp_path / "socket.mp4", "/dev/zero"):
        with pytest.raises(PointDetError, match=f"{path} is a pipe, socket or device; give an image"):
            open_source(str(path))
