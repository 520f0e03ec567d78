# SPDX-License-Identifier: Apache-2.0
"""The lock of a run folder: held until the process ends, however it ends."""

import errno
import fcntl
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pointdet.errors import PointDetError
from pointdet.training.run_lock import RunLock

OTHER = """
import sys, time
from pathlib import Path
from pointdet.training.run_lock import RunLock
lock = RunLock(Path(sys.argv[1]))
print("locked", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_one_is_dead(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    command = [sys.executable, "-c", OTHER, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as other:
        assert other.stdout.readline() == "locked\n"
        sentence = (
            f"{tmp_path} is in use by process {other.pid} on .* since 20.*; wait for that run, or choose"
        )
        with pytest.raises(PointDetError, match=sentence):
            RunLock(tmp_path)
        other.kill()
    RunLock(tmp_path).release()


def test_released(tmp_path):
    first = RunLock(tmp_path)
    with pytest.raises(PointDetError, match=f"in use by process {os.getpid()} on"):
        RunLock(tmp_path)
    first.release()
    RunLock(tmp_path).release()


def test_a_file_system_without_locks_gives_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(logging.getLogger("pointdet"), "propagate", True)
    RunLock(tmp_path).release()
    assert "cannot be locked (No locks available): do not start a second run in it" in caplog.text


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(PointDetError, match=r"cannot write to .*none \(No such file or directory\); choose"):
        RunLock(tmp_path / "none")
