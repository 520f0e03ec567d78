# SPDX-License-Identifier: Apache-2.0
"""The command line, the rows and the faults of a check."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any


def argument_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the flags that all checks have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device",
        choices=("cudnn", "cpu"),
        default="cudnn",
        help="cpu: try the script itself, with small sizes (default: cudnn)",
    )
    parser.add_argument(
        "--only", default="", metavar="PARTS", help="only names that contain one of these parts, by commas"
    )
    parser.add_argument("--results", type=Path, metavar="FILE", help="append the rows to this file, as JSON")
    return parser


class Results:
    """The rows and faults of one check. A fault is printed at once and makes the exit status 1."""

    def __init__(self, check: str, file: Path | None) -> None:
        self._check, self._file = check, file
        self.faults: list[str] = []

    def row(self, **fields: Any) -> None:
        """Append a row to the file of `--results`."""
        if self._file is not None:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"check": self._check, **_finite(fields)}) + "\n")

    def fault(self, text: str) -> None:
        self.faults.append(text)
        print("FAULT", text, flush=True)

    def failed(self, name: str, error: Exception) -> None:
        """The fault of a case that raised an error: its last line."""
        lines = str(error).strip().splitlines() or [type(error).__name__]
        self.fault(f"{name}: {lines[-1][:300]}")

    def finish(self) -> int:
        """Print the conclusion and return the exit status."""
        print(f"{self._check}: {len(self.faults)} fault(s)" if self.faults else f"{self._check}: all well")
        return 1 if self.faults else 0


def chosen(name: str, only: str) -> bool:
    """Whether the flag `--only` selects this name."""
    return not only or any(part in name for part in only.split(","))


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: they become text."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
