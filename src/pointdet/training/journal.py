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
from collections.abc import Collection, Sequence
from importlib.metadata import distributions
from logging.handlers import MemoryHandler
from pathlib import Path

from pointdet.errors import PointDetError, visible_lines
from pointdet.files import write_text
from pointdet.training.event_file import EventFile

logger = logging.getLogger("pointdet")

MAX_DIGITS = 19  # of a step in the journal
BUFFERED_LINES = 1000  # log lines kept in memory until the run folder exists


class _VisibleFormatter(logging.Formatter):
    """Escapes control characters: class names and paths cannot change the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return visible_lines(super().format(record))


def log_to_console(rank: int) -> None:
    """Log to the console and buffer the lines for `log_to_file`. Ranks above 0 log warnings only."""
    root = logging.getLogger("pointdet")
    root.propagate = False
    root.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    console = logging.StreamHandler()
    console.setFormatter(_VisibleFormatter("%(message)s"))
    root.addHandler(console)
    if rank == 0:
        root.addHandler(MemoryHandler(BUFFERED_LINES, flushOnClose=False))


def log_to_file(folder: Path) -> None:
    """Write the buffered lines of the log, and all later ones, to folder/log.txt."""
    root = logging.getLogger("pointdet")
    file = logging.FileHandler(folder / "log.txt", encoding="utf-8", errors="backslashreplace")
    file.setFormatter(_VisibleFormatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
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
    checkpoint are removed, so that each step occurs once. Damaged lines, which a killed machine can leave, are removed
    too, with a warning.
    """

    def __init__(
        self, folder: Path, columns: Sequence[str], step: int, repeated: Collection[str] = ()
    ) -> None:
        """`columns`: all columns except epoch and step. `step`: updates already done, 0 for a new run.
        `repeated`: columns whose records of `step` are removed too, because they will be written again.

        Errors: PointDetError if the files of an earlier run cannot be read.
        """
        self._columns = ["epoch", "step", *columns]
        self._csv = folder / "journal.csv"
        self._monitor = folder / "monitor"
        self._monitor.mkdir(exist_ok=True)
        self._damaged = 0
        rows = [
            row
            for row in self._rows_until(step)
            if int(row["step"]) < step or not any(row.get(name) for name in repeated)
        ]
        table = io.StringIO()
        writer = csv.DictWriter(table, self._columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self._csv, table.getvalue())
        for series in self._monitor.glob("*.series.txt"):
            last = step - (series.name.removesuffix(".series.txt") in repeated)
            lines = [line for line in self._lines(series) if self._is_until(last, *line.partition(" ")[::2])]
            write_text(series, "".join(line + "\n" for line in lines))
        if self._damaged:
            logger.warning("%d damaged lines of the journal in %s are left out", self._damaged, folder)
        self._events = EventFile(folder, step + 1)

    def _rows_until(self, step: int) -> list[dict[str, str]]:
        """The rows of journal.csv up to `step`. A row of another length, or without a step, is damaged."""
        if step == 0 or not self._csv.exists():
            return []
        names: list[str] | None = None
        rows = []
        for line in self._lines(self._csv):
            cells = _cells(line)
            if names is None:
                names = cells
                continue
            row = dict(zip(names, cells, strict=False))
            whole = len(cells) == len(names) and all(_is_number(cell) for cell in cells if cell)
            if self._is_until(step, row.get("step", ""), row.get("step", "") if whole else ""):
                rows.append(row)
        return rows

    def _lines(self, path: Path) -> list[str]:
        """The lines of a file that are not empty. A machine that lost power can leave NUL bytes instead of text.

        The last line is damaged if it does not end: a part of its last number may be missing.
        """
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise PointDetError(
                f"cannot read {path} ({error.strerror}); move it out of the run folder"
            ) from None
        *lines, rest = text.replace("\0", "").split("\n")
        self._damaged += rest != ""
        return [line for line in lines if line.strip()]

    def _is_until(self, limit: int, step: str, value: str) -> bool:
        """Whether a record is whole and not after step `limit`. Damaged records are counted."""
        if step.isascii() and step.isdecimal() and len(step) < MAX_DIGITS and _is_number(value):
            return int(step) <= limit
        self._damaged += 1
        return False

    def write(self, epoch: int, step: int, numbers: dict[str, float]) -> None:
        """Write one record: numbers that are known after update `step` of the run. Columns may be missing."""
        with self._csv.open("a", newline="", encoding="utf-8") as file:
            row = {"epoch": epoch, "step": step, **{name: repr(float(v)) for name, v in numbers.items()}}
            csv.DictWriter(file, self._columns, lineterminator="\n").writerow(row)
        for name, value in numbers.items():
            with (self._monitor / f"{name}.series.txt").open("a", encoding="utf-8") as file:
                file.write(f"{step} {value:.9g}\n")
        self._events.write(step, numbers)

    def close(self) -> None:
        self._events.close()


def _cells(line: str) -> list[str]:
    """The cells of a line of journal.csv; none if its quotation marks are damaged."""
    try:
        return next(csv.reader([line], strict=True))
    except csv.Error:
        return []


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


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
