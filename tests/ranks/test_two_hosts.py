# SPDX-License-Identifier: Apache-2.0
"""Two ranks on two hosts compute the same as on one; a cut link between them ends the run, which can be resumed."""

import csv
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
from two_hosts import TwoHosts, reason_to_skip

from pointdet.config.load import dump
from pointdet.weights import checkpoint, h5_file

HERE = Path(__file__).parent
MAIN = HERE.parents[1] / "src" / "main.py"
OF_TIME = {"time", "images_per_second", "waiting_for_data"}

REASON = reason_to_skip()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON or "-")


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    with TwoHosts(tmp_path_factory.mktemp("hosts")) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    tiny.draw(folder / "data", train=10, val=5)
    settings = (
        "train.workers=1",
        "train.val_intervals=1",
        "train.save_minutes=0.000001",
        "train.ema_decay=0.5",
    )
    limit = "runtime.communication_timeout=3"
    config = tiny.config(folder / "data", tiny.VALIDATION, "augment.colour=0", *settings, limit)
    (folder / "tiny.yaml").write_text(dump(config), encoding="utf-8")
    return folder / "tiny.yaml"


def arguments(config, folder):
    return ["ctdet", "--train-config", config, "-o", folder, "--gpus", "-1"]


@pytest.fixture(scope="module")
def whole(config, mpirun, tmp_path_factory):
    """The folder of a run with two ranks on one host."""
    folder = tmp_path_factory.mktemp("one_host") / "run"
    result = mpirun(2, MAIN, *arguments(config, folder), timeout=60)
    assert result.returncode == 0, result.stderr
    return folder


def journal(folder):
    with (folder / "journal.csv").open(newline="") as file:
        return [{n: v for n, v in row.items() if n not in OF_TIME} for row in csv.DictReader(file)]


def assert_same_run(folder, whole):
    assert len(journal(whole)) == 8  # six steps and two validations
    assert journal(folder) == journal(whole)
    for file in ("parameters.h5", "ema.h5", "solver.h5", "statistics.h5"):
        found, expected = (h5_file.read(f / "checkpoints" / "last" / file) for f in (folder, whole))
        assert set(found) == set(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, err_msg=f"{file}: {name}")


def processes_of(hosts, folder):
    """The processes on the hosts whose command line names the run folder."""
    found = []
    for pid in hosts.processes():
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in line:
            found.append(line)
    return found


def test_two_hosts_compute_the_same_as_one(hosts, config, whole, tmp_path):
    process = hosts.mpirun(MAIN, *arguments(config, tmp_path / "run"))
    _, log = process.communicate(timeout=90)
    assert process.returncode == 0, log
    assert_same_run(tmp_path / "run", whole)
    environment = (tmp_path / "run" / "environment.txt").read_text(encoding="utf-8")
    assert "rank 0 of 2" in environment


def test_a_cut_link_ends_the_run_which_can_be_resumed(hosts, config, whole, tmp_path):
    folder, present = tmp_path / "run", tmp_path / "present"
    present.touch()
    process = hosts.mpirun(HERE / "interfere.py", f"wait for {present}", "0", *arguments(config, folder))
    last = folder / "checkpoints" / "last"
    deadline = time.monotonic() + 60
    while not last.is_dir() or checkpoint.read_state(last)["update"] < 2:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    time.sleep(0.5)  # rank 0 waits in the third step, the last of its epoch
    hosts.link("down")
    cut = time.monotonic()
    try:
        present.unlink()
        _, log = process.communicate(timeout=60)
        seconds = time.monotonic() - cut
        while left := processes_of(hosts, folder):
            assert time.monotonic() - cut < 60, left
            time.sleep(0.1)
    finally:
        hosts.link("up")
    assert process.returncode == 2 and seconds < 40, log
    sentence = (
        "error: rank 0 has waited 3 s for the other ranks: a process hangs, or a host or the network is lost"
    )
    assert log.count(sentence) == 1 and "Traceback" not in log
    assert sentence in (folder / "log.txt").read_text(encoding="utf-8")
    state = checkpoint.read_state(last)
    assert (state["epoch"], state["update"]) == (0, 2) and checkpoint.fault(last) is None

    process = hosts.mpirun(MAIN, *arguments(config, folder), "--resume", "auto")
    _, log = process.communicate(timeout=90)
    assert process.returncode == 0, log
    assert_same_run(folder, whole)
