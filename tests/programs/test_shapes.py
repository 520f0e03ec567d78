# SPDX-License-Identifier: Apache-2.0
"""The program that draws a dataset: its files, bad arguments, and an interruption."""

import json

import pytest

from pointdet.data import shapes as drawing
from pointdet.programs import shapes
from pointdet.programs.run import run_program


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_three_splits(tmp_path):
    assert shapes.main([str(tmp_path), "--train", "2", "--val", "1", "--test", "0", "--size", "32"]) == 0
    assert files(tmp_path) == [
        *(f"annotations/instances_{split}.json" for split in ("test", "train", "val")),
        *("train/000000.jpg", "train/000001.jpg", "val/000000.jpg"),
    ]
    assert len(json.loads((tmp_path / "annotations" / "instances_train.json").read_text())["images"]) == 2


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--size", "15", "15 is not from 16 to 4096"),
        ("--size", "1000000000", "1000000000 is not from 16 to 4096"),
        ("--train", "-1", "-1 is not from 0 to 1000000"),
        ("--seed", "-1", "-1 is not from 0 to 2147483648"),
        ("--val", "x", "invalid whole_number value: 'x'"),
    ],
)
def test_bad_arguments(tmp_path, capsys, flag, value, words):
    with pytest.raises(SystemExit) as ended:
        run_program(lambda: shapes.main([str(tmp_path / "data"), flag, value]))
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"error: argument {flag}: {words}")
    assert not (tmp_path / "data").exists()


def test_a_file_in_the_place_of_the_folder(tmp_path, capsys):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(SystemExit) as ended:
        run_program(lambda: shapes.main([str(tmp_path / "data")]))
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"error: cannot write the pictures in {tmp_path / 'data' / 'train'} (Not a directory)"
    )


def test_ctrl_c_leaves_no_part_of_a_split(tmp_path, capsys, monkeypatch):
    shapes.main([str(tmp_path), "--train", "2", "--val", "1", "--test", "0", "--size", "32"])
    draw, drawn = drawing.draw_picture, []

    def interrupted(*arguments):
        drawn.append(arguments)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return draw(*arguments)

    monkeypatch.setattr(drawing, "draw_picture", interrupted)
    with pytest.raises(SystemExit) as ended:
        run_program(lambda: shapes.main([str(tmp_path), "--train", "9", "--size", "32", "--seed", "1"]))
    assert ended.value.code == 130 and capsys.readouterr().err == "interrupted\n"
    assert files(tmp_path) == [
        "annotations/instances_test.json",
        "annotations/instances_val.json",
        "val/000000.jpg",
    ]
