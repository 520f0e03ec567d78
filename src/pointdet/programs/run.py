# SPDX-License-Identifier: Apache-2.0
"""Run a program: errors become one line and an exit status, and a failed rank ends all ranks."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable

from pointdet.errors import PointDetError


def run_program(main: Callable[[], int | None]) -> None:
    """Run the `main` of a program and exit with its status.

    A PointDetError is printed as one line, with status 2. Any error also ends the other ranks. A status that
    `main` returns must be the same on all ranks.
    """
    failed = True
    try:
        status, failed = main() or 0, False
    except PointDetError as error:
        status = 2
        _wait_unless_rank_0()
        print(f"error: {error}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        status = 130
        print("interrupted", file=sys.stderr, flush=True)
    except BrokenPipeError:
        status = 141
    except Exception:
        _abort_all_ranks(sys.exc_info()[1])
        raise
    if failed:
        _abort_all_ranks(None, status)
    sys.exit(status)


def _wait_unless_rank_0() -> None:
    """Print an error of all ranks once: rank 0 prints it and ends the other ranks while they wait."""
    if int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK", "0"))) > 0:
        time.sleep(1)


def _abort_all_ranks(error: BaseException | None, status: int = 1) -> None:
    """End all ranks through MPI, if there are several. `error` is logged with its traceback."""
    mpi4py = sys.modules.get("mpi4py.MPI")
    if mpi4py is None or not mpi4py.Is_initialized() or mpi4py.COMM_WORLD.size == 1:
        return
    if error is not None:
        logging.getLogger("pointdet").error("rank %d failed", mpi4py.COMM_WORLD.rank, exc_info=error)
    sys.stderr.flush()
    sys.stdout.flush()
    time.sleep(0.3)  # mpirun prints a long message on an abort; print our error line before it
    mpi4py.COMM_WORLD.Abort(status)
