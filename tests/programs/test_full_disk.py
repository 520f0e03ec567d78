# SPDX-License-Identifier: Apache-2.0
"""A training on a disk that is full: one sentence, and nothing half-written."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

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
