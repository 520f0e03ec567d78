# SPDX-License-Identifier: Apache-2.0
"""The log of a run, and its numbers as CSV, TensorBoard events and NNabla's monitor files."""

from __future__ import annotations

import csv
import io
import logging
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import distributions
from logging.handlers import MemoryHandler
from pathlib import Path

from tensorboardX import SummaryWriter

from pointdet.files import write_text

logger = logging.getLogger("pointdet")

BUFFERED_LINES = 1000  # log lines kept in memory until the run folder exists


def log_to_console(rank: int) -> None:
    """Log to the console and buffer the lines for `log_to_file`. Ranks above 0 log warnings only."""
    root = logging.getLogger("pointdet")
    root.propagate = False
    root.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    console = logging.StreamHandler()
    console.setFormatter(logging.Formatter("%(message)s"))
    root.addHandler(console)
    if rank == 0:
        root.addHandler(MemoryHandler(BUFFERED_LINES, flushOnClose=False))


def log_to_file(folder: Path) -> None:
    """Write the buffered lines of the log, and all later ones, to folder/log.txt."""
    root = logging.getLogger("pointdet")
    file = logging.FileHandler(folder / "log.txt", encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    for handler in list(root.handlers):
        if isinstance(handler, MemoryHandler):
            handler.setTarget(file)
            handler.flush()
            root.removeHandler(handler)
            handler.close()
    root.addHandler(file)


class Journal:
    """Writes the numbers of a run in three formats.

    journal.csv has one row per record, in full precision. monitor/ has one series file per number, for
    ``nnabla_cli plot_series``. events.* are for TensorBoard. When a run is resumed, the records after the
    checkpoint are removed, so that each step occurs once.
    """

    def __init__(self, folder: Path, columns: Sequence[str], step: int) -> None:
        """`columns`: all columns except epoch and step. `step`: updates already done, 0 for a new run."""
        self._columns = ["epoch", "step", *columns]
        self._csv = folder / "journal.csv"
        self._monitor = folder / "monitor"
        self._monitor.mkdir(exist_ok=True)
        rows = self._rows_until(step)
        table = io.StringIO()
        writer = csv.DictWriter(table, self._columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self._csv, table.getvalue())
        for series in self._monitor.glob("*.series.txt"):
            lines = [line for line in series.read_text().splitlines() if int(line.split()[0]) <= step]
            write_text(series, "".join(line + "\n" for line in lines))
        self._board = SummaryWriter(str(folder), purge_step=step + 1, write_to_disk=True)

    def _rows_until(self, step: int) -> list[dict[str, str]]:
        if step == 0 or not self._csv.exists():
            return []
        with self._csv.open(newline="", encoding="utf-8") as file:
            return [row for row in csv.DictReader(file) if row["step"] and int(row["step"]) <= step]

    def write(self, epoch: int, step: int, numbers: dict[str, float]) -> None:
        """Write one record: numbers that are known after update `step` of the run. Columns may be missing."""
        with self._csv.open("a", newline="", encoding="utf-8") as file:
            row = {"epoch": epoch, "step": step, **{name: repr(float(v)) for name, v in numbers.items()}}
            csv.DictWriter(file, self._columns, lineterminator="\n").writerow(row)
        for name, value in numbers.items():
            with (self._monitor / f"{name}.series.txt").open("a", encoding="utf-8") as file:
                file.write(f"{step} {value:.9g}\n")
            self._board.add_scalar(name, value, step)
        self._board.flush()

    def close(self) -> None:
        self._board.close()


def environment(runtime_line: str) -> str:
    """The text of environment.txt: device, Python version, command line and versions of all packages."""
    versions = sorted(f"{d.metadata['Name']}=={d.version}" for d in distributions())
    lines = [
        runtime_line,
        f"Python {platform.python_version()}, {os.cpu_count()} CPU cores",
        shlex.join(sys.argv),
        "",
    ]
    return "\n".join([*lines, *versions]) + "\n"
