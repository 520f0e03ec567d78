# SPDX-License-Identifier: Apache-2.0
"""The cores of mpirun and of the ranks and workers that it starts."""

import os
import sys
from pathlib import Path

import pytest

from pointdet import affinity

ALL = frozenset(range(8))
PROGRAM = Path(__file__).parent / "ranks" / "report_affinity.py"


@pytest.mark.parametrize(
    ("count", "rank", "mpirun", "environment", "expected"),
    [
        (2, {3}, ALL, {}, ALL),  # one core for a rank and its workers
        (2, {0, 1}, ALL, {}, ALL),
        (2, {0, 1, 2, 3}, ALL, {}, {0, 1, 2, 3}),  # enough cores: --map-by slot:PE=4, or a socket
        (2, ALL, ALL, {}, ALL),
        (2, {3}, None, {}, {3}),  # a scheduler or the user has bound this process, not mpirun
        (2, {3}, frozenset({3}), {}, {3}),  # or mpirun itself
        (2, {3}, frozenset({4, 5}), {}, {3}),
        (2, {3}, ALL, {"POINTDET_KEEP_BINDING": "1"}, {3}),
        (2, {3}, ALL, {"POINTDET_KEEP_BINDING": "0"}, ALL),
    ],
)
def test_cores_of_the_workers(monkeypatch, tmp_path, count, rank, mpirun, environment, expected):
    monkeypatch.setattr(affinity, "CPUS", tmp_path)
    assert affinity.for_workers(count, frozenset(rank), mpirun, environment) == expected


def test_two_logical_processors_are_one_core(monkeypatch, tmp_path):
    for processor in range(8):
        folder = tmp_path / f"cpu{processor}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{processor % 4},{processor % 4 + 4}\n")
    monkeypatch.setattr(affinity, "CPUS", tmp_path)
    assert affinity.cores(range(8)) == 4
    assert affinity.cores([0, 4]) == 1
    assert affinity.cores([8, 9]) == 2  # unknown


def test_without_mpirun(monkeypatch):
    assert affinity.own() == os.sched_getaffinity(0)
    monkeypatch.setattr(affinity, "MPIRUN", {"no such program"})
    assert affinity.of_mpirun() is None


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="only one core")
@pytest.mark.parametrize("script_between", [False, True])
def test_workers_of_a_bound_rank(mpirun, tmp_path, script_between):
    program = (sys.executable, PROGRAM)
    if script_between:
        script = tmp_path / "start.sh"
        script.write_text('#!/bin/sh\n"$@"\nexit $?\n')
        program = ("/bin/sh", script, *program)
    everything = set(os.sched_getaffinity(0))
    found = report(mpirun, "--bind-to", "core", *program)
    assert len(found["rank"]) == 1 and found["worker"] == everything and found["threads"] == 1
    found = report(mpirun, "--bind-to", "core", "-x", "POINTDET_KEEP_BINDING=1", *program)
    assert len(found["rank"]) == 1 and found["worker"] == found["rank"]
    one = min(everything)
    with_taskset = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {one})  # the user's taskset, or a scheduler's cpuset
        found = report(mpirun, *program)
    finally:
        os.sched_setaffinity(0, with_taskset)
    assert found["rank"] == found["worker"] == {one}


def report(mpirun, *arguments):
    result = mpirun(1, *arguments, program=())
    assert result.returncode == 0, result.stderr
    words = dict(line.split("=", 1) for line in result.stdout.splitlines())
    return {
        "rank": set(map(int, words["rank"].split())),
        "worker": set(map(int, words["worker"].split())),
        "threads": int(words["threads"]),
    }
