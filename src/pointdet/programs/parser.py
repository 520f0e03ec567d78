# SPDX-License-Identifier: Apache-2.0
"""The argument parser of the programs: with several ranks, only rank 0 prints."""

from __future__ import annotations

import argparse
import os
import time
from typing import IO

from pointdet import launcher

WAIT = 1.0  # seconds; mpirun ends all ranks when the first one ends with an error


class Parser(argparse.ArgumentParser):
    """Prints help texts and errors once, not once for each rank."""

    def _print_message(self, message: str, file: IO[str] | None = None) -> None:  # type: ignore[override]
        launch = launcher.detect(os.environ)
        if launch is None or launch.rank == 0:
            super()._print_message(message, file)
        else:
            time.sleep(WAIT)
