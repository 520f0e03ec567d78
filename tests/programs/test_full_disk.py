# SPDX-License-Identifier: Apache-2.0
"""Programs on a disk that is full: one sentence, and nothing half-written."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny

SRC = Path(__file__).parents[2] / "src"
CPU = ("--gpus", "-1")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.draw(tmp_path_factory.mktemp("data"))


@pytest.fixture
def config(tmp_path, data):
    return tiny.write_config(tmp_path / "tiny.yaml", data)


def limit_files(size=100_000):
    """Limit the size of files in bytes, to imitate a full disk. Python ignores the signal SIGXFSZ."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_disk_that_is_full(config, tmp_path):
    result = subprocess.run(
        [sys.executable, SRC / "main.py", "ctdet", "--train-config", config, "-o", tmp_path / "run", *CPU],
        check=False,
        capture_output=True,
        text=True,
        preexec_fn=limit_files,
        env=os.environ | {"PYTHONPATH": str(SRC)},
        timeout=60,
    )
    assert result.returncode == 2 and "Traceback" not in result.stderr
    last = tmp_path / "run" / "checkpoints" / "last"
    assert result.stderr.splitlines()[-1] == (
        f"error: cannot write {last} (File too large); free space or choose another output folder"
    )
    assert list(last.parent.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    """small_disk(kilobytes): a folder that is a file system of this size. Needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size):
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", folder]
        if (
            shutil.which("mount") is None
            or subprocess.run(command, check=False, stderr=subprocess.PIPE).returncode
        ):
            pytest.skip("a small file system cannot be mounted: it needs root")
        return folder

    yield mount
    subprocess.run(["umount", folder], check=False, stderr=subprocess.PIPE)


@pytest.mark.parametrize("size", [4, 16, 40, 120, 400, 600, 800])
def test_a_disk_that_is_full_at_some_moment(config, tmp_path, small_disk, size):
    """The configuration, the log, the journal, events, parameters, or the state of the solver."""
    run = small_disk(size) / "run"
    result = subprocess.run(
        [sys.executable, SRC / "main.py", "ctdet", "--train-config", config, "-o", run, *CPU],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(SRC)},
        timeout=60,
    )
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: cannot write"), result.stderr
    assert "(No space left on device)" in result.stderr
    assert not list(run.rglob(".*writing*"))


def program(*arguments):
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(SRC)},
        timeout=60,
    )
    assert "Traceback" not in result.stderr, result.stderr
    return result


def assert_refused(result, path):
    """One line about `path`; those of a progress bar may be before it."""
    assert result.returncode == 2, result.stderr
    assert result.stderr.splitlines()[-1].startswith(f"error: cannot write {path}"), result.stderr
    assert result.stderr.count("error") == 1


@pytest.mark.parametrize("size", [4, 8, 40, 120])
def test_a_dataset_that_does_not_fit(small_disk, size):
    """The first folder, its pictures, or its annotations. What was written is removed."""
    folder = small_disk(size) / "data"
    pictures = ("--train", "40", "--val", "0", "--test", "0", "--size", "128")
    result = program("-m", "pointdet.data.shapes", folder, *pictures)
    assert_refused(result, f"the pictures in {folder / 'train'} (No space left on device)")
    assert not [path for path in folder.rglob("*") if path.is_file()]


def test_a_dataset_whose_annotations_do_not_fit(small_disk):
    """The pictures need 100 blocks of 4 KiB, the folders none, the annotations ten."""
    folder = small_disk(420) / "data"
    pictures = ("--train", "100", "--val", "0", "--test", "0", "--size", "32")
    result = program("-m", "pointdet.data.shapes", folder, *pictures)
    assert_refused(result, folder / "annotations" / "instances_train.json")
    assert not [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def checkpoint(data):
    return tiny.write_checkpoint(data / "checkpoint", tiny.model(tiny.config(data)))


@pytest.mark.parametrize("size", [4, 8, 24, 40])
def test_a_demo_of_images(checkpoint, data, small_disk, size):
    """Detections or pictures. Every line and every picture that stays is whole."""
    folder = small_disk(size) / "out"
    source = ("--checkpoint", checkpoint, "--demo", data / "train", "--debug", "2", "--vis_thresh", "0.01")
    result = program(SRC / "demo.py", "ctdet", *source, "--save_dir", folder, *CPU)
    assert_refused(result, folder)
    lines = folder / "detections.jsonl"
    for line in lines.read_text().splitlines() if lines.exists() else ():
        json.loads(line)
    for picture in folder.glob("*.jpg"):
        assert picture.read_bytes().endswith(b"\xff\xd9")


def test_a_demo_of_a_video(checkpoint, data, small_disk, tmp_path):
    """OpenCV reports no error; the video without an end is removed."""
    writer = cv2.VideoWriter(str(tmp_path / "film.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (256, 256))
    for number in range(12):
        writer.write(np.random.default_rng(number).integers(0, 256, (256, 256, 3), np.uint8))
    writer.release()
    folder = small_disk(160) / "out"
    source = ("--checkpoint", checkpoint, "--demo", tmp_path / "film.mp4", "--vis_thresh", "1")
    result = program(SRC / "demo.py", "ctdet", *source, "--save_dir", folder, *CPU)
    assert result.returncode == 2 and result.stderr.splitlines()[-1].startswith("error: cannot write"), (
        result.stderr
    )
    assert not list(folder.glob("*.mp4")) and "moov" not in result.stderr
