# SPDX-License-Identifier: Apache-2.0
"""The numbers of a run as CSV, TensorBoard events and NNabla's series files, and the log file."""

import csv
import logging
import os
from contextlib import closing

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from pointdet.errors import PointDetError
from pointdet.training.journal import Journal, environment, log_to_console, log_to_file

COLUMNS = ["AP", "lr", "total"]


def rows(folder):
    with (folder / "journal.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def series(folder, name):
    lines = (folder / "monitor" / f"{name}.series.txt").read_text().splitlines()
    return [(int(step), float(value)) for step, value in map(str.split, lines)]


def scalars(folder):
    """(name, step, value) of every number in the event files, and the steps of their purge events."""
    found, purges = [], []
    for path in sorted(folder.glob("events.*")):
        content = path.read_bytes()
        while content:
            length = int.from_bytes(content[:8], "little")
            event = Event.FromString(content[12 : 12 + length])
            content = content[12 + length + 4 :]
            if event.HasField("session_log"):
                purges.append(event.step)
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
    return found, purges


def write(journal, steps):
    for step in steps:
        journal.write(1 + step // 10, step, {"lr": 1e-3 / step, "total": np.float64(1 / step)})


def test_a_run(tmp_path):
    journal = Journal(tmp_path, COLUMNS, 0)
    write(journal, range(1, 4))
    journal.write(1, 3, {"AP": 0.25})
    journal.close()
    found = rows(tmp_path)
    assert list(found[0]) == ["epoch", "step", *COLUMNS]
    assert [row["step"] for row in found] == ["1", "2", "3", "3"]
    assert float(found[2]["total"]) == 1 / 3  # exact
    assert found[3]["AP"] == "0.25" and found[3]["total"] == ""
    assert series(tmp_path, "total") == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3, rel=1e-8))]
    assert series(tmp_path, "AP") == [(3, 0.25)]
    events, _ = scalars(tmp_path)
    assert ("AP", 3, 0.25) in events and ("total", 2, 0.5) in events and len(events) == 7


def test_files_can_be_read_during_the_run(tmp_path):
    journal = Journal(tmp_path, COLUMNS, 0)
    write(journal, [1])
    assert len(rows(tmp_path)) == 1 and len(series(tmp_path, "lr")) == 1
    journal.close()


def test_resumed(tmp_path):
    """Records after the checkpoint are removed, so every step occurs once."""
    journal = Journal(tmp_path, COLUMNS, 0)
    write(journal, range(1, 8))
    journal.write(1, 7, {"AP": 0.1})
    journal.close()
    journal = Journal(tmp_path, COLUMNS, 5)
    assert [row["step"] for row in rows(tmp_path)] == list("12345")
    write(journal, range(6, 9))
    journal.close()
    assert [row["step"] for row in rows(tmp_path)] == list("12345678")
    assert [step for step, _ in series(tmp_path, "total")] == list(range(1, 9))
    assert series(tmp_path, "AP") == []
    _, purges = scalars(tmp_path)
    assert purges[-1] == 6


def test_a_new_run_removes_the_records_of_a_run_without_checkpoint(tmp_path):
    journal = Journal(tmp_path, COLUMNS, 0)
    write(journal, range(1, 4))
    journal.close()
    Journal(tmp_path, COLUMNS, 0).close()
    assert rows(tmp_path) == [] and series(tmp_path, "total") == []


def test_resumed_with_other_columns(tmp_path):
    journal = Journal(tmp_path, COLUMNS, 0)
    write(journal, [1])
    journal.close()
    journal = Journal(tmp_path, ["total", "tag"], 1)
    journal.write(1, 2, {"total": 2.0, "tag": 3.0})
    journal.close()
    assert [(row["total"], row["tag"]) for row in rows(tmp_path)] == [("1.0", ""), ("2.0", "3.0")]


@pytest.fixture
def logger():
    root = logging.getLogger("pointdet")
    before = root.level, root.propagate
    yield logging.getLogger("pointdet.x")
    log_to_console(0)
    for handler in list(root.handlers):
        root.removeHandler(handler)
    root.level, root.propagate = before


def test_the_log_file_contains_earlier_lines(tmp_path, logger, capfd):
    log_to_console(0)
    logger.info("first %d", 1)
    log_to_file(tmp_path)
    logger.info("second")
    log_to_console(0)  # a resumed run appends; no line is logged twice
    logger.warning("third")
    log_to_file(tmp_path)
    assert capfd.readouterr().err == "first 1\nsecond\nthird\n"
    stamped = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in stamped] == ["first 1", "second", "third"]


def test_other_ranks_log_warnings_only(logger, capfd):
    log_to_console(1)
    logger.info("not this")
    logger.warning("but this")
    assert capfd.readouterr().err == "but this\n"


def test_environment():
    lines = environment("rank 0 of 1 on the CPU").splitlines()
    assert lines[0] == "rank 0 of 1 on the CPU" and lines[1].startswith("Python 3.")
    assert any(line.startswith("nnabla==") for line in lines)
    assert any(line.startswith("numpy==1.") for line in lines)


def test_damaged_files_are_repaired(tmp_path, logger, capfd):
    journal = Journal(tmp_path, COLUMNS, 0)
    write(journal, range(1, 6))
    journal.close()
    with (tmp_path / "journal.csv").open("ab") as file:
        file.write(
            b"\n\x00\x00\x00\x001,6,,0.5,0.5\n1,7,,0.2\n1,2e,,1,1\n1,3,x,1,1\n1,\xff,,1,1\n"
            + b'1,"4,,1,1\n1,5,,'
        )
    with (tmp_path / "monitor" / "lr.series.txt").open("ab") as file:
        file.write(b"\n\x00\x00\n4\n5 x\n" + b"1" * 5000 + b" 1\n6 0.5\n7 0.")
    log_to_console(0)
    Journal(tmp_path, COLUMNS, 6).close()
    assert [row["step"] for row in rows(tmp_path)] == list("123456")
    assert [step for step, _ in series(tmp_path, "lr")] == list(range(1, 7))
    assert capfd.readouterr().err == f"10 damaged lines of the journal in {tmp_path} are left out\n"
    Journal(tmp_path, COLUMNS, 6).close()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("header", [b"", b"\xff\n", b'"epoch\n', b"a,b\n"])
def test_a_journal_without_its_header(tmp_path, header):
    (tmp_path / "journal.csv").write_bytes(header + b"1,1,,0.1,0.2\n")
    Journal(tmp_path, COLUMNS, 3).close()
    assert rows(tmp_path) == []


def test_a_journal_that_cannot_be_read(tmp_path):
    (tmp_path / "journal.csv").mkdir()
    with pytest.raises(PointDetError, match=r"cannot read .*journal.csv \(Is a directory\); move it out"):
        Journal(tmp_path, COLUMNS, 3)


def test_the_log_shows_control_characters_escaped(tmp_path, logger, capfd):
    log_to_console(0)
    logger.info("classes: %s\nsecond line", "\x1b[2Jcat\udce9")
    log_to_file(tmp_path)
    assert capfd.readouterr().err == "classes: \\x1b[2Jcat\\udce9\nsecond line\n"
    assert "\\x1b[2Jcat\\udce9" in (tmp_path / "log.txt").read_text()


def test_records_that_will_be_written_again_are_removed(tmp_path):
    """A validation whose run was killed before its state was saved is repeated."""
    with closing(Journal(tmp_path, ["total", "AP"], 0)) as journal:
        journal.write(1, 4, {"total": 1.0})
        journal.write(1, 4, {"AP": 0.5})
        journal.write(2, 8, {"total": 0.5})
        journal.write(2, 8, {"AP": 0.75})
    with closing(Journal(tmp_path, ["total", "AP"], 8, ("AP",))) as journal:
        journal.write(2, 8, {"AP": 0.25})
    rows = [line.split(",") for line in (tmp_path / "journal.csv").read_text().splitlines()[1:]]
    assert [row[1:] for row in rows] == [
        ["4", "1.0", ""],
        ["4", "", "0.5"],
        ["8", "0.5", ""],
        ["8", "", "0.25"],
    ]
    assert (tmp_path / "monitor" / "AP.series.txt").read_text() == "4 0.5\n8 0.25\n"


def test_names_in_any_encoding_reach_the_log(tmp_path, capsys):
    """Also bytes of a file name that are no text."""
    log_to_console(0)
    log_to_file(tmp_path)
    name = os.fsdecode("猫 ".encode() + bytes([0xFF]))
    logging.getLogger("pointdet").info("%s", name)
    assert "Logging error" not in capsys.readouterr().err
    assert "猫 \\udcff" in (tmp_path / "log.txt").read_text(encoding="utf-8")
