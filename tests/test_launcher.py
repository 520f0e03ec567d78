# SPDX-License-Identifier: Apache-2.0
"""The launcher of a process, by its environment variables."""

import pytest

from pointdet.launcher import Launch, detect

OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
SRUN = {"SLURM_STEP_NUM_TASKS": "7", "SLURM_PROCID": "6", "SLURM_STEP_TASKS_PER_NODE": "2(x3),1"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        (OPEN_MPI, Launch("mpirun", 4, 3, 2)),
        (SRUN | {"SLURM_NODEID": "3"}, Launch("srun", 7, 6, 1)),
        (SRUN | {"SLURM_NODEID": "2"}, Launch("srun", 7, 6, 2)),
        (SRUN | {"SLURM_NODEID": "2", "PMIX_RANK": "6"}, Launch("srun", 7, 6, 2)),  # --mpi=pmix
        (SRUN | {"PMI_SIZE": "7", "PMI_RANK": "6"}, Launch("srun", 7, 6, 2)),  # --mpi=pmi2
        (SRUN | OPEN_MPI, Launch("mpirun", 4, 3, 2)),  # mpirun within a step
        ({"PMI_SIZE": "2", "PMI_RANK": "1", "MPI_LOCALNRANKS": "2"}, Launch("the PMI launcher", 2, 1, 2)),
        ({"PMI_SIZE": "2", "PMI_RANK": "1"}, Launch("the PMI launcher", 2, 1, 1)),
        ({"PALS_SIZE": "2", "PALS_RANKID": "1", "PMI_SIZE": "2"}, Launch("the PALS launcher", 2, 1, 1)),
        ({"FLUX_JOB_SIZE": "2", "FLUX_TASK_RANK": "1"}, Launch("flux run", 2, 1, 1)),
        ({"PMIX_RANK": "1"}, Launch("the PMIx launcher", None, 1, 1)),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, None),  # a batch script, which is one process
        ({"OMPI_COMM_WORLD_SIZE": "many"}, None),
    ],
)
def test_launchers(environment, expected):
    assert detect(environment) == expected
