# SPDX-License-Identifier: Apache-2.0
"""The training program: a run from start to end, and errors, which are one line and write no file."""

import json
import logging
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import yaml

from pointdet.config.load import load
from pointdet.inference.predictor import Predictor
from pointdet.programs import train
from pointdet.programs.run import run_program
from pointdet.training.run_lock import RunLock
from pointdet.weights import checkpoint, h5_file

SRC = Path(__file__).parents[2] / "src"
CPU = ("--gpus", "-1")


@pytest.fixture(autouse=True)
def logger():
    """Restore the logger, whose handlers a run changes."""
    root = logging.getLogger("pointdet")
    before = root.level, root.propagate, list(root.handlers)
    yield
    for handler in set(root.handlers) - set(before[2]):
        root.removeHandler(handler)
        handler.close()
    root.level, root.propagate = before[:2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.draw(tmp_path_factory.mktemp("data"))


@pytest.fixture
def config(tmp_path, data):
    return tiny.write_config(tmp_path / "tiny.yaml", data)


@pytest.fixture
def run(monkeypatch, capfd):
    """run(argument, ...) -> exit status, standard output, standard error."""

    def call(*arguments, program=train.main):
        monkeypatch.setattr(sys, "argv", ["main.py", *map(str, arguments), *CPU])
        with pytest.raises(SystemExit) as raised:
            run_program(program)
        return raised.value.code, *capfd.readouterr()

    return call


@pytest.fixture
def refused(run, tmp_path):
    """refused(argument, ...) -> the error message of a run with the run folder tmp_path / "run"."""

    def call(*arguments):
        status, _, log = run("ctdet", "-o", tmp_path / "run", *arguments)
        assert status == 2 and "Traceback" not in log
        *_, sentence = log.splitlines()
        assert sentence.startswith("error: ") and log.count("error: ") == 1
        assert not (tmp_path / "run" / "checkpoints").exists()
        return sentence.removeprefix("error: ")

    return call


def test_from_images_to_detections(run, config, tmp_path, data):
    """A training, the files of its run folder, and a prediction with its best checkpoint."""
    folder = tmp_path / "run"
    settings = ("--set", tiny.VALIDATION, "--set", "train.workers=1", "--set", "train.num_epochs=1")
    status, printed, log = run("ctdet", "--train-config", config, "-o", folder, *settings)
    assert (status, printed) == (0, "")
    assert "rank 0 of 1 on the CPU" in log and f"8 training images, classes: {tiny.CLASS_NAMES[0]}, " in log
    assert "epoch 1/1, step 4/4: heatmap " in log and log.endswith(f"the run is in {folder}\n")
    assert {path.name.split(".")[0] for path in folder.iterdir()} == {
        *("checkpoints", "config", "environment", "evaluation", "events", "journal", "lock", "log", "monitor")
    }
    assert all(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    best = checkpoint.read_state(folder / "checkpoints" / "best")
    assert best["class_names"] == list(tiny.CLASS_NAMES)
    assert load(folder / "config.yaml").train.num_epochs == 1

    import cv2

    predictor = Predictor.from_checkpoint(folder / "checkpoints" / "best")
    image = cv2.imread(str(next((data / "val").iterdir())))
    found = predictor(image)
    assert len(found) == 100 and predictor.class_names == tiny.CLASS_NAMES
    assert 0 < found.scores.min() <= found.scores.max() < 1


def test_show_config(run, config, tmp_path):
    status, printed, _ = run(
        "ctdet", "--train-config", config, "-o", tmp_path / "run", "--set", "train.seed=5", "--show-config"
    )
    assert status == 0 and yaml.safe_load(printed)["train"]["seed"] == 5
    assert not (tmp_path / "run").exists()


def test_check_data(run, config):
    status, printed, _ = run("ctdet", "--train-config", config, "--check-data")
    assert status == 0 and "8 images" in printed and "circle" in printed


def test_preview(run, config, tmp_path):
    status, printed, _ = run("ctdet", "--train-config", config, "-o", tmp_path / "run", "--preview", 3)
    paths = [Path(line) for line in printed.splitlines()]
    assert status == 0 and len(paths) == 3 and all(path.stat().st_size > 1000 for path in paths)
    assert {path.parent for path in paths} == {tmp_path / "run" / "preview"}


def test_unknown_key(refused, config):
    text = config.read_text().replace("batch_size:", "batchsize:")
    config.write_text(text)
    line = 1 + text[: text.index("batchsize:")].count("\n")
    sentence = refused("--train-config", config)
    assert sentence == f"{config}, line {line}: unknown key train.batchsize; did you mean batch_size?"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (
            "train.batch_size=many",
            "--set train.batch_size=many: train.batch_size: input should be a valid int",
        ),
        ("train.batch_size=0", "train.batch_size: input should be greater than or equal to 1 (given: 0)"),
        (
            "input.height=100",
            "input.height must be a multiple of 32 for resnet, not 100; set it to 96 or 128",
        ),
        ("train.epochs=3", "unknown key train.epochs; did you mean num_epochs?"),
        ("model.num_layers=19", "resnet has no depth 19; choose one of 18, 34, 50, 101, 152"),
        ("train.learning_rate.warmup_epochs=9", "warmup_epochs (9) exceeds num_epochs (2)"),
        ("train.seed", "--set 'train.seed' is not of the form section.key=value"),
    ],
)
def test_invalid_settings(refused, config, setting, words):
    assert words in refused("--train-config", config, "--set", setting)


def test_no_config(refused, tmp_path):
    assert "there is no configuration" in refused("--train-config", tmp_path / "nothing.yaml")


def test_missing_data_folder(refused, config, tmp_path):
    sentence = refused("--train-config", config, "--data_dir", tmp_path / "nothing")
    assert (
        sentence
        == f"the data folder {tmp_path / 'nothing'} does not exist; correct --data_dir or dataset.data_dir"
    )


def test_missing_annotations(refused, config, tmp_path):
    assert "instances_train.json" in refused("--train-config", config, "--data_dir", tmp_path)


def test_missing_images(refused, config, tmp_path):
    """An error at the start or after the first batches; the images are not left out."""
    data = tiny.draw(tmp_path / "data")
    for image in (data / "train").iterdir():
        image.unlink()
    assert str(data) in refused("--train-config", config, "--data_dir", data)


def test_a_detector_that_does_not_exist(run, config):
    """argparse prints the usage and the choices."""
    status, _, log = run("yolo", "--train-config", config)
    assert status == 2 and "invalid choice: 'yolo' (choose from 'ctdet'" in log.splitlines()[-1]


def test_a_run_that_cannot_start_writes_nothing(refused, config, tmp_path):
    assert "missing" in refused("--train-config", config, "--data_dir", tmp_path / "missing")
    assert not (tmp_path / "run").exists()


def test_a_second_run_in_the_same_folder(refused, config, tmp_path):
    (tmp_path / "run").mkdir()
    lock = RunLock(tmp_path / "run")
    sentence = refused("--train-config", config)
    assert re.fullmatch(
        rf"{tmp_path}/run is in use by process \d+ on .*; wait for that run, or .* -o", sentence
    )
    lock.release()


def test_resume_auto(run, config, tmp_path):
    """The same command starts the run and continues it."""
    arguments = ("ctdet", "--train-config", config, "-o", tmp_path / "run", "--resume", "auto")
    for epochs in (1, 2):
        status, _, log = run(*arguments, "--set", f"train.num_epochs={epochs}")
        assert status == 0, log
    assert "resumed" in log and "changed since the checkpoint: train.num_epochs: 1 -> 2" in log
    assert (tmp_path / "run" / "config_1.yaml").is_file()


def test_resume_without_a_checkpoint(refused, config, tmp_path):
    sentence = refused("--train-config", config, "--resume")
    assert sentence == f"there is no checkpoint to resume in {tmp_path / 'run'}; start without --resume"
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written(run, config, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, log = run("ctdet", "--train-config", config, "-o", tmp_path / "file" / "run")
    assert status == 2
    assert log.splitlines()[-1] == (
        f"error: cannot write to {tmp_path / 'file' / 'run'} (Not a directory); choose another -o"
    )


def test_missing_backbone(refused, config, tmp_path):
    sentence = refused("--train-config", config, "--set", f"model.pretrained_model_dir={tmp_path}")
    assert f"there is no resnet18_nchw_imagenet.h5 or resnet18-*.pth in {tmp_path}; put one there" in sentence


def test_invalid_checkpoints(refused, config, tmp_path, data):
    missing = tmp_path / "nothing.h5"
    sentence = refused("--train-config", config, "--checkpoint", missing)
    assert sentence.endswith(f"there is no {missing}; give a checkpoint folder or an .h5 parameter file")
    assert "is no checkpoint, it has no state.json" in refused("--train-config", config, "--checkpoint", data)
    (tmp_path / "state.json").write_text('{"format": 9}')
    assert "has another format than 1" in refused("--train-config", config, "--checkpoint", tmp_path)
    model = tiny.model(tiny.config(data))
    folder = tiny.write_checkpoint(tmp_path / "best", model)
    path = folder / "parameters.h5"
    path.write_bytes(path.read_bytes()[:20000])
    sentence = refused("--train-config", config, "--checkpoint", folder)
    assert "best/parameters.h5 is not a whole .h5 file (" in sentence
    assert sentence.endswith("; copy or download it again")


def test_fine_tuning_for_other_classes(run, config, tmp_path, data):
    two = tiny.model(tiny.config(data), ("cat", "dog"))
    folder = tiny.write_checkpoint(tmp_path / "two" / "best", two)
    status, _, log = run(
        *("ctdet", "--train-config", config, "-o", tmp_path / "run", "--checkpoint", folder),
        *("--set", "train.num_epochs=1"),
    )
    assert status == 0 and "kept 125" in log and "start anew: circle, square, triangle, star" in log


def test_wrong_number_of_classes(monkeypatch, capfd, tmp_path, data):
    """The test program, with an .h5 file of another number of classes than the configuration."""
    arrays = tiny.parameters(tiny.model(tiny.config(data)))
    h5_file.write(tmp_path / "x.h5", {name: (array, True) for name, array in arrays.items()})
    settings = tiny.settings(data)
    settings["dataset"] |= {"class_names": ["cat", "dog"], "test": settings["dataset"]["train"]}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, SRC / "test.py", "ctdet", "--checkpoint", tmp_path / "x.h5"]
    result = subprocess.run(
        [*command, "--train-config", tmp_path / "two.yaml", "--save_dir", tmp_path / "out", *CPU],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    count = len(tiny.CLASS_NAMES)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert f"x.h5 was trained for {count} classes, but 2 are requested" in result.stderr
    assert not (tmp_path / "out").exists()


def test_one_checkpoint_of_a_run_on_the_training_images(run, config, tmp_path):
    """The test program selects a checkpoint by its iteration, and a split by either of its names."""
    folder, out = tmp_path / "run", tmp_path / "out"
    assert run("ctdet", "--train-config", config, "-o", folder, "--set", "train.save_intervals=1")[0] == 0
    test = runpy.run_path(str(SRC / "test.py"))["main"]
    arguments = ("ctdet", "--checkpoint_dir", folder, "--save_dir", out, "--split", "training", "--testiter")
    status, _, log = run(*arguments, 5, program=test)
    assert status == 2 and log.endswith(
        "checkpoints has no checkpoint of iteration 5; it has those of 4, 8\n"
    )
    status, printed, _ = run(*arguments, 4, "--debug", 3, program=test)
    assert (
        status == 0 and len(list((out / "debug").iterdir())) == 3 and "3 pictures of ground truth" in printed
    )
    for refused in (("--debug", 0), ("--debug", "--benchmark")):
        status, _, log = run(*arguments, 4, *refused, program=test)
        assert status == 2 and "--debug draws one image or more, and no --benchmark" in log
    assert str(folder / "checkpoints" / "epoch_0001") in printed
    written = json.loads((out / "metrics.json").read_text())
    assert (written["dataset"], written["images"]) == ("shapes_train", 8)
    assert written["metrics"]["FD50"] == pytest.approx(1 - written["metrics"]["AP50"])


def test_a_run_is_not_overwritten(run, config, tmp_path):
    arguments = ("ctdet", "--train-config", config, "-o", tmp_path / "run", "--set", "train.num_epochs=1")
    assert run(*arguments)[0] == 0
    before = {
        path: path.read_bytes()
        for path in (tmp_path / "run").rglob("*")
        if path.is_file() and path.name != "lock"
    }
    status, _, log = run(*arguments)
    assert status == 2
    sentence = (
        f"error: {tmp_path / 'run'} already holds a run; add --resume to continue it, or choose another -o\n"
    )
    assert log.endswith(sentence) and log.count("error: ") == 1
    assert {
        path: path.read_bytes()
        for path in (tmp_path / "run").rglob("*")
        if path.is_file() and path.name != "lock"
    } == before


def test_resumed_with_data_of_other_classes(run, config, tmp_path, data):
    arguments = ("ctdet", "--train-config", config, "-o", tmp_path / "run", "--set", "train.num_epochs=1")
    assert run(*arguments)[0] == 0
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    other = tiny.draw(tmp_path / "other")
    path = other / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["categories"][0]["name"] = "ring"
    path.write_text(json.dumps(content))
    status, _, log = run(*arguments, "--resume", "--data_dir", other)
    assert status == 2 and log.count("error: ") == 1
    assert "was trained for other classes than those of the data; start a new run" in log
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before
