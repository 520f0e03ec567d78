# SPDX-License-Identifier: Apache-2.0
"""The demo: every network, every kind of source, interrupted runs, errors."""

import json
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny

from pointdet.errors import PointDetError
from pointdet.inference import sinks
from pointdet.inference.predictor import Predictor
from pointdet.inference.sources import open_source
from pointdet.programs import demo as demo_program

SOURCE = Path(__file__).parents[2] / "src" / "demo.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.draw(tmp_path_factory.mktemp("data"), train=6, val=0)


@pytest.fixture(scope="module")
def checkpoint(data):
    return tiny.write_checkpoint(data / "checkpoint", tiny.model(tiny.config(data)))


@pytest.fixture(scope="module")
def film(data):
    writer = cv2.VideoWriter(str(data / "film.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 64))
    for path in 4 * sorted((data / "train").iterdir()):
        writer.write(cv2.imread(str(path)))
    writer.release()
    return data / "film.mp4"


@pytest.fixture
def demo(tmp_path):
    """demo("--demo", "x", ...) -> exit status. The output folder is tmp_path / "out"."""

    def run(*arguments, detector="ctdet"):
        words = [
            detector,
            *map(str, arguments),
            "--save_dir",
            str(tmp_path / "out"),
            "--extension_module",
            "cpu",
        ]
        return demo_program.main(words)

    return run


def entries(folder):
    return [json.loads(line) for line in (folder / "detections.jsonl").read_text().splitlines()]


def assert_found(entry, found, names):
    """The entry contains these detections."""
    assert [d["class"] for d in entry["detections"]] == [names[label] for label in found.labels]
    np.testing.assert_allclose([d["score"] for d in entry["detections"]], found.scores, rtol=1e-4)


@pytest.mark.parametrize("network", tiny.NETWORKS)
def test_a_folder_through_every_network(demo, data, network, tmp_path, capsys):
    config = tiny.config(data, *tiny.NETWORKS[network])
    model = tiny.model(config)
    checkpoint = tiny.write_checkpoint(tmp_path / "checkpoint", model)
    settings = ["--vis_thresh", "0.01", "--K", "3", "--debug", "2"]
    words = ["--checkpoint", checkpoint, "--demo", data / "train", *settings]
    assert demo(*words, detector=config.detector.name) == 0
    paths = sorted((data / "train").iterdir())
    found = entries(tmp_path / "out")
    assert [entry["name"] for entry in found] == [path.stem for path in paths]
    predictor = Predictor.of(model)
    for entry, path in zip(found, paths, strict=True):
        expected = predictor(cv2.imread(str(path)))[:3]
        assert_found(entry, expected[expected.scores >= 0.01], predictor.class_names)
        for kind in ("", "_heatmap"):
            assert (tmp_path / "out" / f"{path.stem}{kind}.jpg").is_file()
    output = capsys.readouterr().out
    assert "pictures: 6, found (score 0.01 or more): " in output
    for stage in ("read", "pre-process", "network", "decode", "NMS", "draw", "write"):
        assert f"{stage} " in output


def test_a_video_becomes_a_video(demo, checkpoint, film, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert demo("--checkpoint", checkpoint, "--demo", film, "--set", "test.batch_size=5") == 0
    made = open_source(str(tmp_path / "out" / "film.mp4"))
    assert made.rate == pytest.approx(10) and len(list(made.frames())) == 24
    found = entries(tmp_path / "out")
    assert [entry["seconds"] for entry in found] == pytest.approx([n / 10 for n in range(24)])
    output = capsys.readouterr().out
    assert "pictures: 24" in output and "to copy that of film.mp4, install ffmpeg" in output
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["detections.jsonl", "film.mp4"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "kill"])
def test_an_interrupted_run_completes_its_files(
    demo, checkpoint, film, tmp_path, monkeypatch, capsys, number
):
    predict = Predictor.detect

    def interrupted(self, images):
        interrupted.calls += 1
        if interrupted.calls == 7:
            signal.raise_signal(number)
        return predict(self, images)

    interrupted.calls = 0
    monkeypatch.setattr(Predictor, "detect", interrupted)
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    assert demo("--checkpoint", checkpoint, "--demo", film) == 130
    kept = len(entries(tmp_path / "out"))
    assert kept == 7  # the current batch is finished
    assert len(list(open_source(str(tmp_path / "out" / "film.mp4")).frames())) == kept
    output = capsys.readouterr().out
    assert "pictures: 7, " in output and "interrupted; written to" in output
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_ctrl_c_is_the_normal_end_of_a_camera_run(demo, checkpoint, film, tmp_path, monkeypatch):
    real = cv2.VideoCapture

    class Camera:
        """A film that starts again at its end."""

        def __init__(self, place):
            self.film = real(str(film) if place == 0 else place)

        def read(self):
            read, image = self.film.read()
            if not read:
                self.film = real(str(film))
                read, image = self.film.read()
            if self.film.get(cv2.CAP_PROP_POS_FRAMES) == 20:
                signal.raise_signal(signal.SIGINT)
            return read, image

        def __getattr__(self, name):
            return getattr(self.film, name)

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    assert demo("--checkpoint", checkpoint, "--demo", "webcam") == 0
    assert (tmp_path / "out" / "camera_0.mp4").stat().st_size > 0
    assert entries(tmp_path / "out")[0]["name"] == "camera_0_000000"


def test_an_error_of_any_stage_is_raised_and_the_video_completed(
    demo, checkpoint, film, tmp_path, monkeypatch
):
    write, count = sinks.Sink.write_detections, 5

    def full(self, *words):
        nonlocal count
        count -= 1
        if not count:
            raise PointDetError("the disk is full")
        write(self, *words)

    monkeypatch.setattr(sinks.Sink, "write_detections", full)
    with pytest.raises(PointDetError, match="the disk is full"):
        demo("--checkpoint", checkpoint, "--demo", film)
    assert 5 <= len(list(open_source(str(tmp_path / "out" / "film.mp4")).frames())) <= 8
    monkeypatch.setattr(sinks.Sink, "write_detections", write)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.png").write_bytes(b"no image")
    with pytest.raises(PointDetError, match="none of the 1 images"):
        demo("--checkpoint", checkpoint, "--demo", tmp_path / "broken")


def test_lines_of_progress_without_a_terminal(demo, capsys, monkeypatch):
    monkeypatch.setattr(demo_program, "SECONDS_BETWEEN_LINES", 0)
    assert list(demo_program.with_progress(iter("ab"), 2)) == ["a", "b"]
    assert list(demo_program.with_progress(iter("a"), None)) == ["a"]
    first, second, unknown = capsys.readouterr().out.splitlines()
    assert first.startswith("1 of 2 pictures, ") and second.startswith("2 of 2 pictures, ")
    assert unknown.startswith("1 pictures, ") and unknown.endswith(" per second")


def test_the_output_folder_is_not_the_folder_of_the_images(demo, tmp_path):
    (tmp_path / "out").mkdir()
    cv2.imwrite(str(tmp_path / "out" / "a.jpg"), np.zeros((8, 8, 3), np.uint8))
    for place in ("out", "out/a.jpg"):
        with pytest.raises(
            PointDetError, match="the images of --demo are in .*out; choose another --save_dir"
        ):
            demo("--checkpoint", "x.h5", "--demo", tmp_path / place)
