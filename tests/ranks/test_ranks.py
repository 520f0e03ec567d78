# SPDX-License-Identifier: Apache-2.0
"""Two ranks compute the same as one; an error or signal in one rank ends all of them."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny

from pointdet.config.load import dump
from pointdet.weights import checkpoint, h5_file

HERE = Path(__file__).parent
MAIN = HERE.parents[1] / "src" / "main.py"
IMAGES = 10  # the third global batch of four has two images


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    tiny.draw(folder / "data", train=IMAGES, val=5)
    config = tiny.config(folder / "data", tiny.VALIDATION, "augment.colour=0")
    path = folder / "tiny.yaml"
    path.write_text(dump(config), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def single(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("single")
    # One thread for matrix products, as under mpirun: the number of threads changes the order of the sums.
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment = os.environ | threads | {"PYTHONPATH": f"{MAIN.parent}:{HERE.parent}"}
    subprocess.run([sys.executable, HERE / "together.py", config, folder], check=True, env=environment)
    return dict(np.load(folder / "rank_0_of_1.npz"))


@pytest.fixture(scope="module")
def folder_of_two(config, mpirun, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    result = mpirun(2, HERE / "together.py", config, folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def two(folder_of_two):
    return [dict(np.load(folder_of_two / f"rank_{rank}_of_2.npz")) for rank in (0, 1)]


def test_validation_loss(single, two):
    for rank in two:
        np.testing.assert_array_equal(rank["validation_loss"], two[0]["validation_loss"])
        np.testing.assert_allclose(rank["validation_loss"], single["validation_loss"], rtol=1e-4)
    assert (single["validation_loss"] > 0).all()


def of(arrays, prefix):
    return {n.removeprefix(prefix): array for n, array in arrays.items() if n.startswith(prefix)}


def test_summed_gradients_are_those_of_the_global_batch(single, two):
    expected = of(single, "gradient/")
    counts = [rank["gradient/own_count"] for rank in two]
    assert (counts[0] != counts[1]).any()  # otherwise the test would not notice a division on each rank
    np.testing.assert_array_equal(sum(counts), expected.pop("own_count"))
    largest = max(np.abs(gradient).max() for gradient in expected.values())
    for rank in two:
        for name, gradient in expected.items():
            np.testing.assert_allclose(
                rank[f"gradient/{name}"], gradient, rtol=0, atol=1e-6 * largest, err_msg=name
            )
    for name in expected:
        np.testing.assert_array_equal(two[0][f"gradient/{name}"], two[1][f"gradient/{name}"])


def seen(ranks, epoch):
    """The images of an epoch with weight 1, as bytes."""
    found = []
    for rank in ranks:
        half = len(rank["weights"]) // 2
        rows = slice(epoch * half, (epoch + 1) * half)
        pixels = rank["images"][rows].reshape(-1, *rank["images"].shape[2:])
        found += [image.tobytes() for image in pixels[rank["weights"][rows].ravel() == 1]]
    return found


def test_every_image_is_used_once_in_an_epoch(single, two):
    for epoch in (0, 1):
        images = seen(two, epoch)
        assert len(images) == len(set(images)) == IMAGES
        assert set(images) == set(seen([single], epoch))
    # The global batches are the same too.
    for step, (pixels, weights) in enumerate(zip(single["images"], single["weights"], strict=True)):
        joined = {image.tobytes() for image in pixels[weights == 1]}
        assert joined == {
            image.tobytes() for rank in two for image in rank["images"][step][rank["weights"][step] == 1]
        }


def test_detections_are_those_of_one_rank(single, two):
    assert len(single["lengths"]) == 5 and single["lengths"].min() > 0
    for rank in two:
        for name in ("lengths", "boxes", "labels", "scores"):
            np.testing.assert_array_equal(rank[name], single[name])


def test_parameters_are_equal_on_both_ranks(two, folder_of_two):
    first, second = (of(rank, "trained/") for rank in two)
    last = folder_of_two / "run" / "checkpoints" / "last"
    saved, averaged = h5_file.read(last / "parameters.h5"), h5_file.read(last / "ema.h5")
    assert list(first) == list(saved) == list(averaged)
    for name, array in first.items():
        assert np.isfinite(averaged[name]).all()
        if name.endswith(("bn/mean", "bn/var")):  # every rank has its own; the checkpoint has their mean
            assert (second[name] != array).any()
            np.testing.assert_allclose(saved[name], (array + second[name]) / 2, rtol=1e-6, atol=1e-9)
        else:
            np.testing.assert_array_equal(second[name], array, err_msg=name)
            np.testing.assert_array_equal(saved[name], array)
    assert checkpoint.read_state(last)["ranks"] == 2


def test_one_rank_overflows_and_both_skip(config, mpirun, tmp_path):
    result = mpirun(2, HERE / "overflow.py", config, tmp_path)
    assert result.returncode == 0, result.stderr
    ranks = [dict(np.load(tmp_path / f"rank_{r}.npz")) for r in (0, 1)]
    for arrays in ranks:  # one update, one that was skipped, statistics too, one update
        first, second, third, last = (of(arrays, f"{step}/") for step in range(4))
        for name, array in second.items():
            np.testing.assert_array_equal(third[name], array, err_msg=name)
        for before, after in ((first, second), (third, last)):
            assert any((after[name] != array).any() for name, array in before.items())
    for name, array in ranks[0].items():
        if not name.endswith(("bn/mean", "bn/var")):  # every rank has its own running statistics
            np.testing.assert_array_equal(ranks[1][name], array, err_msg=name)
    rows = journal(tmp_path)
    assert [float(row["skipped_steps"]) for row in rows] == [0, 1, 1]
    assert [float(row["loss_scale"]) for row in rows] == [16, 8, 8]
    assert checkpoint.read_state(tmp_path / "checkpoints" / "last")["loss_scale"]["skipped_steps"] == 1


def arguments(config, folder, *more):
    settings = ("train.num_epochs=2", "train.workers=1", "train.val_intervals=1", *more)
    overrides = [word for setting in settings for word in ("--set", setting)]
    return ["ctdet", "--train-config", config, "-o", folder, "--gpus", "-1", *overrides]


def journal(folder):
    with (folder / "journal.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(config, mpirun, tmp_path_factory):
    """The folder of a finished run of main.py with two ranks."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    result = mpirun(2, MAIN, *arguments(config, folder))
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("rank 0 of 2 on the CPU") == 1 and "rank 1" not in result.stderr
    return folder


def test_a_run_of_two_ranks(whole):
    rows = journal(whole)
    assert [row["step"] for row in rows if row["total"]] == [str(step + 1) for step in range(6)]
    assert [row["step"] for row in rows if row["AP"]] == ["3", "6"]
    assert {path.name for path in (whole / "checkpoints").iterdir()} == {"last", "best"}
    state = checkpoint.read_state(whole / "checkpoints" / "last")
    assert (state["epoch"], state["updates_per_epoch"], state["ranks"]) == (2, 3, 2)
    arrays = h5_file.read(whole / "checkpoints" / "last" / "parameters.h5")
    assert all(np.isfinite(array).all() for array in arrays.values())
    assert len(list(whole.glob("events.*"))) == 1


def test_signal_to_one_rank_stops_all_and_the_run_can_be_resumed(config, whole, mpirun, tmp_path):
    folder = tmp_path / "run"
    stopped = mpirun(2, HERE / "interfere.py", "stop", "1", *arguments(config, folder))
    assert stopped.returncode == 143, stopped.stderr
    assert "stopped at the validation of epoch 1" in stopped.stderr and "MPI_ABORT" not in stopped.stderr
    state = checkpoint.read_state(folder / "checkpoints" / "last")
    # The ranks exchange their requests before each step. The signal came in the third, the last of its epoch.
    assert (state["epoch"], state["update"], state["validation_due"]) == (1, 0, True)
    resumed = mpirun(2, MAIN, *arguments(config, folder), "--resume")
    assert resumed.returncode == 0, resumed.stderr
    terms = ("step", "lr", "heatmap", "size", "offset", "total")
    ours, theirs = ([[row[t] for t in terms] for row in journal(f) if row["total"]] for f in (folder, whole))
    assert ours == theirs
    found, expected = (h5_file.read(f / "checkpoints" / "last" / "solver.h5") for f in (folder, whole))
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    for file in ("parameters.h5", "statistics.h5"):  # bit for bit: every rank goes on with its own statistics
        found, expected = (h5_file.read(f / "checkpoints" / "last" / file) for f in (folder, whole))
        assert list(found) == list(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signal_to_all_processes_of_the_job(config, mpirun, tmp_path, name):
    if signal.getsignal(signal.Signals[name]) == signal.SIG_IGN:
        pytest.skip("the tests run under nohup")
    folder = tmp_path / "run"
    stopped = mpirun(2, HERE / "interfere.py", name, "all", *arguments(config, folder))
    assert stopped.returncode == 143, stopped.stderr
    assert "stopped at the validation of epoch 1; continue with --resume" in stopped.stderr
    assert "Traceback" not in stopped.stderr and "loader process" not in stopped.stderr
    assert checkpoint.read_state(folder / "checkpoints" / "last")["epoch"] == 1


@pytest.mark.parametrize(("what", "rank"), [("fail", 0), ("fail", 1), ("crash", 1), ("die", 1)])
def test_end_of_one_rank_ends_all(config, mpirun, tmp_path, what, rank):
    started = time.monotonic()
    result = mpirun(2, HERE / "interfere.py", what, str(rank), *arguments(config, tmp_path / "run"))
    assert time.monotonic() - started < 60
    assert result.returncode != 0
    if what == "fail":
        sentences = [
            line for line in map(str.strip, result.stderr.splitlines()) if line.startswith("error: ")
        ]
        assert sentences == ["error: this rank cannot go on; fix it"]
        assert "Traceback" not in result.stderr
    if what == "crash":
        assert "ZeroDivisionError: a programming error" in result.stderr
        assert f"rank {rank} failed" in result.stderr


def test_an_error_of_the_command_line_is_printed_once(config, mpirun, tmp_path):
    result = mpirun(2, MAIN, *arguments(config, tmp_path / "run"), "--no-such-flag")
    assert result.returncode == 2
    assert result.stderr.count("unrecognized arguments: --no-such-flag") == 1
    assert result.stderr.count("usage: ") == 1


def test_unusable_images_of_all_ranks_count_and_are_logged(config, mpirun, tmp_path):
    """30 of 60 images; each rank has half of them, fewer than the 20 that are allowed."""
    data = tiny.draw(tmp_path / "data", train=60, val=1)
    for path in sorted((data / "train").iterdir())[::2]:
        path.write_bytes(b"no image")
    result = mpirun(2, MAIN, *arguments(config, tmp_path / "run"), "--data_dir", data)
    assert result.returncode == 2
    assert re.search(r"error: \d\d of 60 images cannot be used \(see the warnings above\)", result.stderr)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "another image replaces it" in log and "rank 1: " in log


def test_more_ranks_than_images(config, mpirun, tmp_path):
    data = tiny.draw(tmp_path / "data", train=1)
    result = mpirun(2, MAIN, *arguments(config, tmp_path / "run"), "--data_dir", data)
    assert result.returncode == 2
    assert result.stderr.count("error: shapes_train has 1 images for 2 ranks; start fewer ranks") == 1
    assert "Traceback" not in result.stderr and not (tmp_path / "run").exists()


def test_two_ranks_do_not_overwrite_a_run(config, whole, mpirun):
    before = (whole / "journal.csv").read_bytes()
    result = mpirun(2, MAIN, *arguments(config, whole))
    assert result.returncode == 2
    sentences = [line for line in map(str.strip, result.stderr.splitlines()) if line.startswith("error: ")]
    assert len(sentences) == 1 and "already holds a run; add --resume" in sentences[0]
    assert (whole / "journal.csv").read_bytes() == before
