# SPDX-License-Identifier: Apache-2.0
"""Environment variables for OpenBLAS and OpenMP."""

import os
import subprocess
import sys

import pytest

from pointdet.processor import AVX512, settings

MPIRUN = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}


def cpuinfo(vendor="AuthenticAMD", family=26, flags=AVX512):
    one = f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: 2\nflags\t\t: fpu {' '.join(flags)}\n"
    return f"{one}\n{one.replace(': 0', ': 1')}"


def test_amd_family_that_openblas_does_not_know():
    assert settings(cpuinfo(), {}, 2, 2) == {"OPENBLAS_CORETYPE": "SkylakeX"}


@pytest.mark.parametrize(
    "text",
    [cpuinfo(family=25), cpuinfo(vendor="GenuineIntel"), cpuinfo(flags={"avx2", "avx512f"}), ""],
    ids=["known", "Intel", "without AVX-512", "no Linux"],
)
def test_other_processors_need_no_variable(text):
    assert settings(text, {}, 2, 2) == {}


@pytest.mark.parametrize(
    ("cores", "of_job", "ranks", "threads"),
    [
        (16, 16, 4, "4"),  # not bound
        (1, 16, 2, "1"),  # two ranks: mpirun binds each to one core
        (2, 2, 4, "1"),  # more ranks than cores
        (4, 16, 2, "4"),  # --map-by slot:PE=4
        (4, 8, 2, "4"),
        (32, 64, 8, "8"),  # four ranks on each socket
    ],
)
def test_ranks_of_a_host_divide_its_cores(cores, of_job, ranks, threads):
    expected = {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
    environment = MPIRUN | {"OMPI_COMM_WORLD_LOCAL_SIZE": str(ranks)}
    assert settings("", environment, cores, of_job) == expected
    assert settings("", MPIRUN | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, cores, of_job) == {}


@pytest.mark.parametrize(
    ("given", "cores", "threads"), [({}, 8, "4"), ({"SLURM_CPUS_PER_TASK": "4"}, 4, "4")]
)
def test_cores_of_srun(given, cores, threads):
    environment = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0", "SLURM_STEP_TASKS_PER_NODE": "2"}
    assert settings("", environment | given, cores, cores)["OMP_NUM_THREADS"] == threads


def test_variables_set_by_the_user_are_not_changed():
    given = MPIRUN | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMP_NUM_THREADS": "3", "OPENBLAS_CORETYPE": "Zen"}
    assert settings(cpuinfo(), given, 8, 8) == {"OPENBLAS_NUM_THREADS": "4"}


def test_variables_are_set_before_numpy_is_imported():
    program = "import os, sys, pointdet; print(os.environ['OMP_NUM_THREADS'], 'numpy' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= MPIRUN | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4096"}
    found = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["1", "False"]
