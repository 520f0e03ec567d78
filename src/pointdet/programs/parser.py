# SPDX-License-Identifier: Apache-2.0
"""The argument parser of the programs: options of other systems are explained, and only rank 0 prints."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any

from pointdet import launcher
from pointdet.programs.other_systems import INSTEAD

WAIT = 1.0  # seconds; mpirun ends all ranks when the first one ends with an error


class Parser(argparse.ArgumentParser):
    """Prints help texts and errors once, not once for each rank.

    An option of another system that this program does not have is an error that says what to give instead.
    """

    instead: Mapping[str, str] = INSTEAD

    def parse_known_args(  # type: ignore[override]  # typeshed has overloads for the namespace
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse. `parse_args` and `parse_intermixed_args` call it."""
        for argument in sys.argv[1:] if args is None else args:
            name = argument.partition("=")[0]
            own = any(option.startswith(name) for option in self._option_string_actions)
            if name in self.instead and not own:
                self.error(f"{name} is an option of another system; instead: {self.instead[name]}")
        return super().parse_known_args(args, namespace)

    def _print_message(self, message: str, file: IO[str] | None = None) -> None:  # type: ignore[override]
        launch = launcher.detect(os.environ)
        if launch is None or launch.rank == 0:
            super()._print_message(message, file)
        else:
            time.sleep(WAIT)
