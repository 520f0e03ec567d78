# SPDX-License-Identifier: Apache-2.0
"""The memory that is available, from files as the kernel writes them, and under real limits."""

import resource
import subprocess
import sys

import pytest

from pointdet import available_memory
from pointdet.errors import PointDetError

GIB = 1 << 30


@pytest.fixture
def system(tmp_path, monkeypatch):
    """system({path: text}): files of /proc and of /sys/fs/cgroup. The machine has 8 GiB left, and no other limits."""
    monkeypatch.setattr(available_memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(available_memory, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY,) * 2)

    def write(files):
        files = {"proc/meminfo": f"MemTotal: 99999999 kB\nMemAvailable:  {8 << 20} kB\n"} | files
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, encoding="ascii")

    return write


def group(folder, names, limit, used, freed):
    """The files of a control group."""
    limit_name, used_name, freed_name = names
    statistics = f"anon 5\n{freed_name} {freed}\nother 7\n"
    texts = {limit_name: f"{limit}\n", used_name: f"{used}\n", "memory.stat": statistics}
    return {f"cgroup/{folder}/{name}": text for name, text in texts.items()}


V2, V1 = available_memory.VERSION_2, available_memory.VERSION_1


@pytest.mark.parametrize(
    ("files", "available"),
    [
        ({}, 8 * GIB),
        ({"proc/self/cgroup": "0::/job\n"} | group("job", V2, "max", GIB, 0), 8 * GIB),
        ({"proc/self/cgroup": "0::/job\n"} | group("job", V2, 4 * GIB, 3 * GIB, GIB), 2 * GIB),
        # The parent leaves less than the group itself, as with Slurm's steps.
        (
            {"proc/self/cgroup": "0::/job/step\n"}
            | group("job/step", V2, 6 * GIB, 1 * GIB, 0)
            | group("job", V2, 6 * GIB, 5 * GIB, 0),
            1 * GIB,
        ),
        ({"proc/self/cgroup": "0::/\n"} | group(".", V2, 3 * GIB, GIB, 0), 2 * GIB),
        # Version 1, and a container whose own group is the root that it sees.
        ({"proc/self/cgroup": "4:memory:/x\n0::/\n"} | group("memory/x", V1, 2 * GIB, GIB, 0), GIB),
        ({"proc/self/cgroup": "9:cpu,memory:/docker/abc\n"} | group("memory", V1, 3 * GIB, GIB, 0), 2 * GIB),
        ({"proc/self/cgroup": "4:memory:/x\n"} | group("memory/x", V1, 9223372036854771712, GIB, 0), 8 * GIB),
        ({"proc/self/cgroup": "0::/job\n"} | group("job", V2, GIB, 2 * GIB, 0), 0),
    ],
)
def test_control_groups(system, files, available):
    system(files)
    assert available_memory.available_bytes() == available


def test_a_size_that_is_too_large(system):
    system({})
    available_memory.require(8 * GIB, "the batch", "lower train.batch_size")
    with pytest.raises(
        PointDetError,
        match="the batch needs 8,193 MiB, but 8,192 MiB of memory are available; lower train.batch_size",
    ):
        available_memory.require(8 * GIB + 1, "the batch", "lower train.batch_size")


@pytest.mark.parametrize("kind", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_limits_of_the_process(kind):
    code = f"import resource; resource.setrlimit(resource.{kind}, (1 << 29, -1))\n"
    code += "from pointdet.available_memory import available_bytes; print(available_bytes())"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert 1 << 26 < int(found.stdout) < 1 << 29


def test_this_machine_has_memory():
    assert 1 << 20 < available_memory.available_bytes() < 1 << 62
