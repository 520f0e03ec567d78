# SPDX-License-Identifier: Apache-2.0
"""Run a program: errors become one line and an exit status, and a failed rank ends all ranks."""

from __future__ import annotations

import io
import logging
import os
import sys
import time
from collections.abc import Callable

from pointdet import launcher
from pointdet.errors import DISK, PointDetError


def run_program(main: Callable[[], int | None]) -> None:
    """Run the `main` of a program and exit with its status.

    A PointDetError is printed as one line, with status 2. Any error also ends the other ranks. A status that
    `main` returns must be the same on all ranks.
    """
    failed = True
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show is no error
            stream.reconfigure(errors="backslashreplace")
    try:
        status, failed = main() or 0, False
    except PointDetError as error:
        status = 2
        _wait_unless_rank_0()
        print(f"error: {error}", file=sys.stderr, flush=True)
    except BrokenPipeError:
        status = 141
    except OSError as error:
        if error.errno not in DISK:
            _abort_all_ranks(error)
            raise
        status = 2
        _wait_unless_rank_0()
        where = f" to {error.filename}" if error.filename else ""
        print(f"error: cannot write{where} ({error.strerror}); free space", file=sys.stderr, flush=True)
    except (KeyboardInterrupt, Exception) as error:
        if not _is_ctrl_c(error):
            _abort_all_ranks(error)
            raise
        status = 130
        print("interrupted", file=sys.stderr, flush=True)
    if failed:
        _abort_all_ranks(None, status)
    sys.exit(status)


def _is_ctrl_c(error: BaseException | None) -> bool:
    """NNabla turns a KeyboardInterrupt in a Python function of its graph into a SystemError."""
    while isinstance(error, SystemError):
        error = error.__cause__ or error.__context__
    return isinstance(error, KeyboardInterrupt)


def _wait_unless_rank_0() -> None:
    """Print an error of all ranks once: rank 0 prints it and ends the other ranks while they wait."""
    launch = launcher.detect(os.environ)
    if launch is not None and launch.rank > 0:
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
