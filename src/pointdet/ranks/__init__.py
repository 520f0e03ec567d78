# SPDX-License-Identifier: Apache-2.0
"""The processes (ranks) of one run, and the sums over them: a single process, MPI, or NCCL between GPUs."""
