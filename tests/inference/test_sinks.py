# SPDX-License-Identifier: Apache-2.0
"""Output files of the demo: jpg, mp4 with sound, and one line of JSON per frame."""

import json
import shutil
import subprocess
from contextlib import closing

import cv2
import numpy as np
import pytest

from pointdet.errors import PointDetError
from pointdet.inference.sinks import Sink, add_sound, describe
from pointdet.inference.sources import Frame, Source, open_source
from pointdet.structures import Detections

FOUND = Detections(
    np.array([[0.1, 1, 2, 3]], np.float32), np.array([1], np.int64), np.array([0.7], np.float32)
)


def picture(value, height=48, width=64):
    return np.full((height, width, 3), value, np.uint8)


def still(name="a"):
    return Source(name, lambda: iter(()), 1)


def film(rate=10.0):
    return Source("film", lambda: iter(()), rate=rate)


def read(path):
    return [frame.image for frame in open_source(str(path)).frames()]


def test_sink_of_images(tmp_path):
    sink = Sink(still(), tmp_path / "out" / "deep")
    sink.write(Frame("a", picture(0)), picture(120))
    sink.write(Frame("a", picture(0)), picture(60), "_heatmap")
    sink.close()
    written = sorted((tmp_path / "out" / "deep").iterdir())
    assert [path.name for path in written] == ["a.jpg", "a_heatmap.jpg", "detections.jsonl"]
    np.testing.assert_allclose(cv2.imread(str(written[0])), picture(120), atol=2)


def test_sink_of_a_video(tmp_path):
    sink = Sink(film(12.5), tmp_path / "out")
    for i, value in enumerate((40, 90, 140)):
        frame = Frame(f"film_{i}", picture(value), i / 12.5)
        sink.write(frame, frame.image)
        sink.write(frame, picture(7, 31, 45), "_heatmap")  # odd sides
    sink.close()
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["detections.jsonl", "film.mp4", "film_heatmap.mp4"]
    assert open_source(str(sink.video())).rate == pytest.approx(12.5)
    np.testing.assert_allclose([image.mean() for image in read(sink.video())], [40, 90, 140], atol=8)
    assert read(sink.video("_heatmap"))[0].shape == (30, 44, 3)


def test_video_of_a_camera_keeps_real_time(tmp_path):
    sink = Sink(film(10.0), tmp_path)
    # The second frame is late, the third comes within the same 0.1 s, the fourth in time.
    for value, seconds in ((0, 0.0), (100, 0.31), (150, 0.33), (200, 0.4)):
        sink.write(Frame("x", picture(value), seconds), picture(value))
    sink.close()
    means = [image.mean() for image in read(sink.video())]
    np.testing.assert_allclose(means, [0, 100, 100, 100, 200], atol=8)


def test_every_line_is_flushed(tmp_path):
    (tmp_path / "detections.jsonl").write_text("from an earlier run")
    sink = Sink(still(), tmp_path)
    for name in ("a", "b"):
        sink.write_detections(Frame(name, picture(0)), FOUND, ["cat", "dog"])
        lines = (tmp_path / "detections.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["name"] == name
    sink.close()
    assert len(lines) == 2


def test_description_is_json_in_full_precision():
    entry = json.loads(json.dumps(describe(Frame("a", picture(0), 1 / 3), FOUND, ["cat", "dog"])))
    box, score = [0.1, 1, 2, 3], np.float32(0.7)
    assert entry["name"] == "a" and entry["seconds"] == 1 / 3
    (detection,) = entry["detections"]
    assert detection["class"] == "dog" and detection["label"] == 1
    assert np.float32(detection["score"]) == score and detection["score"] == float(score)
    assert (np.float32(detection["box_x1y1x2y2"]) == np.float32(box)).all()
    assert "seconds" not in describe(Frame("a", picture(0)), FOUND, ["cat", "dog"])


@pytest.mark.parametrize("taken", ["out", "out/detections.jsonl/x", "out/a.jpg/x", "out/film.mp4/x"])
def test_paths_that_cannot_be_written_raise_an_error(tmp_path, taken):
    """A file exists instead of the folder, or a folder instead of a file. This also fails for root."""
    path = tmp_path / taken
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("exists")
    with pytest.raises(PointDetError, match="cannot (write|make).*out.*; choose another"):
        for source in (still(), film()):
            with closing(Sink(source, tmp_path / "out")) as sink:
                sink.write(Frame("a", picture(0), 0.0), picture(0))


def fake_ffmpeg(folder, script):
    folder.mkdir()
    (folder / "ffmpeg").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "ffmpeg").chmod(0o755)
    return str(folder)


@pytest.mark.parametrize(
    "script, line, content",
    [
        ('for last; do :; done; echo "$*" > "$last"', "film.mp4 has the sound of talk.avi", "copy"),
        ("echo '1:a matches no streams.' >&2; exit 1", "talk.avi has no sound", "video"),
        (
            "echo no such codec >&2; echo more >&2; exit 3",
            "film.mp4 has no sound: ffmpeg cannot copy that of talk.avi (no such codec)",
            "video",
        ),
        (None, "film.mp4 has no sound: to copy that of talk.avi, install ffmpeg", "video"),
    ],
)
def test_sound_is_copied_or_the_reason_is_reported(tmp_path, monkeypatch, script, line, content):
    path = "" if script is None else fake_ffmpeg(tmp_path / "bin", script)
    monkeypatch.setenv("PATH", path)
    video = tmp_path / "film.mp4"
    video.write_text("video")
    assert add_sound(video, tmp_path / "talk.avi") == line
    assert content in video.read_text()
    assert {p.name for p in tmp_path.iterdir()} <= {"film.mp4", "bin"}


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg")
def test_sound_is_copied_unchanged(tmp_path):
    def ffmpeg(*words):
        command = ["ffmpeg", "-nostdin", "-v", "error", *map(str, words)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    source, silent = tmp_path / "talk.mp4", tmp_path / "out.mp4"
    picture_and_tone = ("-f", "lavfi", "-i", "testsrc=s=64x48:r=10:d=2", "-f", "lavfi", "-i", "sine=d=2")
    ffmpeg(*picture_and_tone, "-c:v", "mpeg4", "-c:a", "aac", source)
    ffmpeg("-i", source, "-an", "-c:v", "mpeg4", silent)
    hashes = ("-map", "0:a", "-c", "copy", "-f", "md5", "-")
    assert add_sound(silent, source) == "out.mp4 has the sound of talk.mp4"
    assert ffmpeg("-i", silent, *hashes) == ffmpeg("-i", source, *hashes)
    assert len(read(silent)) == 20
    ffmpeg("-i", source, "-an", "-c", "copy", tmp_path / "mute.mp4")
    assert add_sound(silent, tmp_path / "mute.mp4") == "mute.mp4 has no sound"
