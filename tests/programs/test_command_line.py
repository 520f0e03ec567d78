# SPDX-License-Identifier: Apache-2.0
"""The command ``pointdet``: help, version, and the same programs as those in src/."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import pointdet
from pointdet.programs.command_line import COMMANDS

SRC = Path(__file__).parents[2] / "src"
PROGRAMS = {
    "train": "main.py",
    "test": "test.py",
    "demo": "demo.py",
    "export": "save_nnp.py",
    "convert": "convert_weights.py",
    "shapes": "pointdet/data/shapes/__main__.py",
}
MODULES = {"shapes": "python -m pointdet.data.shapes"}  # programs that are started as modules
CONFIG = "resnet_18_pascal_fp"


def execute(*arguments, folder):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        check=False,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def command(tmp_path):
    """command("train", ...): the finished ``python -m pointdet train ...``, run in an empty folder."""
    return lambda *arguments: execute("-m", "pointdet", *arguments, folder=tmp_path)


def test_help_lists_the_commands(command):
    result = command("--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("usage: pointdet [-h] [--version] COMMAND ...")
    lines = [line.split(maxsplit=1) for line in result.stdout.splitlines()]
    assert all([name, text] in lines for name, text in COMMANDS.items())


def test_version(command):
    result = command("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"PointDet {pointdet.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["predict"],
            f"argument COMMAND: invalid choice: 'predict' (choose from {str(list(COMMANDS))[1:-1]})",
        ),
        ([], "the following arguments are required: COMMAND, ARGUMENTS"),
    ],
)
def test_unknown_or_missing_command(command, arguments, sentence):
    result = command(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1] == f"pointdet: error: {sentence}"


def test_every_command_has_a_program():
    assert set(PROGRAMS) == set(COMMANDS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_of_every_command(command, tmp_path, name):
    """The help of ``pointdet NAME`` equals that of the program in src/, except for the name."""
    result, program = command(name, "--help"), execute(SRC / PROGRAMS[name], "--help", folder=tmp_path)
    assert (result.returncode, result.stderr) == (program.returncode, program.stderr) == (0, "")
    assert result.stdout.startswith(f"usage: pointdet {name} [-h] ")
    shown = MODULES.get(name, PROGRAMS[name])
    assert program.stdout.startswith(f"usage: {shown} [-h] ")

    def words(text, prog):
        default = f"(default: runs/{prog.split()[-1].removesuffix('.py')})"
        return " ".join(text.split()).replace(f"usage: {prog} ", "").replace(default, "")

    assert words(result.stdout, f"pointdet {name}") == words(program.stdout, shown)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("train", ["--train-config", "absent.yaml"], "there is no configuration absent.yaml; give "),
        ("test", ["ctdet"], "give one of --checkpoint and --checkpoint_dir"),
        ("demo", ["--checkpoint", "x.h5", "--demo", "absent.jpg"], "absent.jpg does not exist; give "),
        ("export", ["--batch_size", "0"], "--batch_size must be at least 1"),
        ("convert", ["absent.h5", "y.h5"], "there is no parameter file absent.h5"),
    ],
)
def test_errors_are_those_of_the_programs(command, tmp_path, name, arguments, message):
    result = command(name, *arguments)
    program = execute(SRC / PROGRAMS[name], *arguments, folder=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {message}") and result.stderr.count("\n") == 1
    assert (program.returncode, program.stdout, program.stderr) == (2, "", result.stderr)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("detector", ["none", "first", "last"])
def test_the_detector_is_optional(command, tmp_path, detector):
    """A shipped configuration is found by name from any folder. The detector may follow the flags."""
    flags = ["--train-config", CONFIG, "--set", "train.seed=5", "--show-config"]
    arguments = {"none": flags, "first": ["ctdet", *flags], "last": [*flags, "ctdet"]}[detector]
    result = command("train", *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    config = yaml.safe_load(result.stdout)
    assert (config["detector"]["name"], config["dataset"]["dataset"]) == ("ctdet", "pascal")
    assert config["train"]["seed"] == 5
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("last", [False, True])
def test_another_detector_than_that_of_the_configuration_is_an_error(command, last):
    flags = ["--train-config", CONFIG, "--show-config"]
    result = command("train", *([*flags, "cornernet"] if last else ["cornernet", *flags]))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert result.stderr.endswith(
        f"{CONFIG}.yaml is a configuration of ctdet, not of cornernet; leave out cornernet\n"
    )


def test_an_unknown_detector_is_an_error_of_the_usage(command):
    result = command("train", "yolo", "--train-config", CONFIG)
    assert result.returncode == 2 and result.stderr.splitlines()[-1].startswith(
        "pointdet train: error: argument detector: invalid choice: 'yolo'"
    )
