# SPDX-License-Identifier: Apache-2.0
"""The parts of test.py and demo.py that need no network: checkpoints, splits, tables, errors."""

import subprocess
import sys
from pathlib import Path

import pytest

from pointdet.errors import PointDetError
from pointdet.programs import test

SOURCE = Path(__file__).parents[2] / "src"


@pytest.mark.parametrize("name", ["test", "demo"])
def test_importing_a_program_does_not_import_nnabla(name):
    """The loader's worker processes import the program."""
    code = f"import runpy, sys; runpy.run_path('{name}.py'); sys.exit('nnabla' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=SOURCE, timeout=60).returncode == 0


def test_checkpoints_are_found_in_natural_order(tmp_path):
    for name in ("epoch_10", "epoch_2", "best", ".last.writing", "b/epoch_1"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "state.json").write_text("{}")
        (tmp_path / name / "parameters.h5").write_text("")
    for name in ("params_9.h5", "params_30.h5", "states_9.h5", "notes.txt"):
        (tmp_path / name).write_text("")
    found = [path.relative_to(tmp_path).as_posix() for path in test.checkpoints_below(tmp_path)]
    assert found == ["b/epoch_1", "best", "epoch_2", "epoch_10", "params_9.h5", "params_30.h5"]
    with pytest.raises(PointDetError, match="no checkpoint below"):
        test.checkpoints_below(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("given", "split"),
    [("train", "train"), ("training", "train"), ("validation", "val"), ("val", "val"), ("testing", "test")],
)
def test_splits_have_two_names(given, split):
    assert test.parse(["ctdet", "--split", given], None).split == split


def test_table_of_several_checkpoints(tmp_path):
    rows = [
        ("epoch_1", {"AP": 1 / 3, "AP50": 0.5, "AP/cat": 0.1}),
        ("epoch_2", {"AP": 0.4, "AP50": float("nan"), "AP/cat": 0.2}),
    ]
    assert test.summary(rows).splitlines() == [
        "checkpoint     AP   AP50",
        "epoch_1      33.3   50.0",
        "epoch_2      40.0    nan",
        "best: epoch_2, AP 40.00",
    ]
    test.write_csv(rows, tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text() == f"checkpoint,AP,AP50\nepoch_1,{1 / 3!r},0.5\nepoch_2,0.4,nan\n"


@pytest.mark.parametrize(
    "program, arguments, sentence",
    [
        ("test", "ctdet", "error: give one of --checkpoint and --checkpoint_dir"),
        ("test", "ctdet --checkpoint_dir .", "error: there is no checkpoint below ."),
        ("test", "ctdet --checkpoint_dir . --testiter 5", "error: . has no checkpoint of iteration 5"),
        ("test", "ctdet --checkpoint x --testiter 5", "error: --testiter chooses one checkpoint of a run"),
        (
            "test",
            "ctdet --checkpoint_dir . --benchmark",
            "error: --benchmark measures one --checkpoint, with one image or more",
        ),
        ("demo", "ctdet --checkpoint x.h5 --demo camera:61", "error: camera 61 cannot be opened"),
        ("demo", "ctdet --checkpoint x.h5 --demo absent.jpg", "error: absent.jpg does not exist"),
    ],
)
def test_an_error_is_one_line_and_status_2(tmp_path, program, arguments, sentence):
    command = [sys.executable, str(SOURCE / f"{program}.py"), *arguments.split()]
    environment = {"PYTHONPATH": str(SOURCE), "PATH": "/usr/bin:/bin"}
    result = subprocess.run(
        command, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith(sentence) and result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
