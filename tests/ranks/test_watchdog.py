# SPDX-License-Identifier: Apache-2.0
"""A rank that waits too long for the others ends all of them; slow work outside a collective does not count."""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

from pointdet.config.load import dump
from pointdet.errors import PointDetError
from pointdet.ranks import watchdog as module
from pointdet.ranks.watchdog import Watchdog
from pointdet.weights import checkpoint

HERE = Path(__file__).parent
SRC = HERE.parents[1] / "src"


class Ended(Exception):
    pass


@pytest.fixture
def ends(monkeypatch):
    """The reasons for which a watchdog would have ended the process."""
    found = []

    def end(self, reason):
        found.append(reason)
        raise Ended

    monkeypatch.setattr(Watchdog, "_end", end)
    monkeypatch.setattr("threading.excepthook", lambda arguments: None)
    return found


def test_only_waiting_in_one_collective_counts(ends):
    watchdog = Watchdog(0, 0.4)
    time.sleep(0.6)
    for _ in range(6):
        with watchdog:
            time.sleep(0.15)
    assert ends == []
    with watchdog:
        time.sleep(1)
    assert len(ends) == 1 and ends[0].startswith("rank 0 has waited 0.4 s for the other ranks: ")


def test_a_wait_that_ends_while_lower_ranks_may_print(ends):
    watchdog = Watchdog(1, 0.2)
    with watchdog:
        time.sleep(0.7)  # over the limit, but this rank gives rank 0 a second to print
    time.sleep(1)
    assert ends == []


def test_no_limit(ends):
    with Watchdog(0, 0):
        time.sleep(0.5)
    assert ends == []


def test_sums_on_the_gpu(ends):
    watchdog, since = Watchdog(0, 0.4), None
    watchdog.watch_gpu(lambda: since)
    for _ in range(6):  # steps of a running training: every step starts other sums
        since = time.monotonic()
        time.sleep(0.15)
    since = None
    time.sleep(0.8)  # a validation
    assert ends == []
    since = time.monotonic()
    time.sleep(1)
    assert len(ends) == 1


def test_a_fault_that_nccl_reports(ends):
    def since():
        raise PointDetError("a sum over the GPUs failed")

    Watchdog(0, 0.4).watch_gpu(since)
    time.sleep(0.5)
    assert ends == ["a sum over the GPUs failed"]


@pytest.fixture
def last_words(monkeypatch, caplog):
    """The log of watchdogs that end the process; the process itself stays."""

    def end(status):
        raise Ended

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(module.signal, "alarm", lambda seconds: None)
    monkeypatch.setattr("threading.excepthook", lambda arguments: None)
    monkeypatch.setattr(module, "SECONDS_TO_SAVE", 1)
    monkeypatch.setattr(logging.getLogger("pointdet"), "propagate", True)
    return caplog


def fail():
    raise PointDetError("the disk is full")


def test_what_is_saved_before_the_end(last_words):
    cases = {
        "step 7 is saved": lambda: "step 7 is saved",
        "no checkpoint is written (the disk is full)": fail,
        "no checkpoint is written (integer division or modulo by zero)": lambda: str(1 // 0),
        "no checkpoint is written, because it took more than 1 s": lambda: time.sleep(9) or "late",
    }
    for words, save in cases.items():
        watchdog = Watchdog(0, 0.2)
        with watchdog.saving(save), watchdog:
            time.sleep(2)
        assert f"the network is lost; {words}; start again" in last_words.messages[-1]
    assert len(last_words.messages) == len(cases)
    watchdog = Watchdog(0, 0.2)
    with watchdog.saving(fail):
        pass
    with watchdog:
        time.sleep(1)
    assert "the network is lost; start again" in last_words.messages[-1]


def test_only_rank_0_saves_and_the_others_wait_for_it(last_words):
    watchdog, saved = Watchdog(1, 0.2), []
    with watchdog.saving(lambda: saved.append(1) or "saved"), watchdog:
        time.sleep(1.9)  # the limit, the second of its rank, and not yet that of the checkpoint
        assert not last_words.messages
        time.sleep(1)
    assert len(last_words.messages) == 1 and not saved
    assert "rank 1 has waited 0.2 s" in last_words.messages[0]


@pytest.mark.parametrize("state", ["stuck", "failed"])
def test_nothing_is_saved_while_sums_on_the_gpu_are_unfinished(last_words, state):
    watchdog, saved, since = Watchdog(0, 0.2), [], time.monotonic()
    watchdog.watch_gpu(lambda: since if state == "stuck" else fail())
    with watchdog.saving(lambda: saved.append(1) or "saved"):
        time.sleep(1)
    assert not saved and len(last_words.messages) == 1
    assert "; no checkpoint is written, because the GPU waits too; " in last_words.messages[0]


def test_a_collective_that_ends_during_the_saving_does_not_go_on(last_words):
    """Otherwise the next update would change what is being written."""
    watchdog, events = Watchdog(0, 0.2), []

    def save():
        time.sleep(0.6)
        events.append("saved")
        return "saved"

    with watchdog.saving(save):
        with watchdog:
            time.sleep(0.5)
        events.append("went on")
    assert events == ["saved", "went on"]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_hangs(mpirun, tmp_path, rank):
    tiny.draw(tmp_path / "data", train=10, val=0)
    config, folder = tmp_path / "tiny.yaml", tmp_path / "run"
    settings = ("runtime.communication_timeout=3", "train.save_minutes=0.000001", "train.workers=1")
    config.write_text(dump(tiny.config(tmp_path / "data", *settings)), encoding="utf-8")
    arguments = ["ctdet", "--train-config", config, "-o", folder, "--gpus", "-1"]
    result = mpirun(2, HERE / "interfere.py", "hang", str(rank), *arguments, timeout=60)
    assert result.returncode == 2, result.stderr
    lines = [line for line in map(str.strip, result.stderr.splitlines()) if line.startswith("error: ")]
    assert len(lines) == 1 and lines[0].startswith(
        f"error: rank {1 - rank} has waited 3 s for the other ranks"
    )
    assert "Traceback" not in result.stderr
    assert (lines[0] in (folder / "log.txt").read_text(encoding="utf-8")) == (rank == 1)
    state = checkpoint.read_state(folder / "checkpoints" / "last")
    assert (state["epoch"], state["update"]) == (0, 2)  # the third step was not summed
    assert checkpoint.fault(folder / "checkpoints" / "last") is None


NCCL = """
import ctypes, sys, time
nccl = ctypes.CDLL(sys.argv[1] + "/libnccl.so.2", ctypes.RTLD_GLOBAL)
ctypes.CDLL(sys.argv[1] + "/libcudart.so.12", ctypes.RTLD_GLOBAL)
from pointdet.ranks.nccl_library import Nccl
from pointdet.ranks.watchdog import Watchdog
binding, watchdog = Nccl(), Watchdog(0, 1)
binding.join(binding.unique_id(), 0, 1)
watchdog.watch_gpu(binding.unfinished_since)
binding.sum([(ctypes.addressof(ctypes.c_float(1)), 1)])
binding.wait()
time.sleep(3)
print("not ended")
"""


@pytest.mark.parametrize(
    ("variable", "sentence"),
    [
        (None, None),
        ("STAND_IN_STUCK", "error: rank 0 has waited 1 s for the other ranks"),
        ("STAND_IN_FAULT", "error: a sum over the GPUs failed (internal error)"),
    ],
)
def test_sums_that_nccl_does_not_finish(nccl_stand_ins, variable, sentence):
    process = subprocess.run(
        [sys.executable, "-c", NCCL, nccl_stand_ins],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(SRC)} | ({variable: "1"} if variable else {}),
    )
    if sentence is None:
        assert (process.returncode, process.stdout) == (0, "not ended\n"), process.stderr
    else:
        assert (process.returncode, process.stdout) == (2, "")
        assert process.stderr.startswith(sentence) and process.stderr.count("\n") == 1
