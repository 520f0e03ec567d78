# SPDX-License-Identifier: Apache-2.0
"""The run folder: find the checkpoint to resume, and write the first files of a run."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from types import TracebackType
from typing import Literal, final

from pointdet.config import load
from pointdet.config.schema import Config
from pointdet.errors import PointDetError
from pointdet.files import finish_replacements, write_text
from pointdet.ranks.long_work import from_rank_0
from pointdet.runtime import Runtime
from pointdet.training.journal import environment, log_to_console, log_to_file
from pointdet.training.rank_warnings import keep_warnings
from pointdet.training.run_lock import RunLock
from pointdet.weights import checkpoint as checkpoints

logger = logging.getLogger("pointdet")


Resume = Literal["never", "always", "auto"]


@final
class RunFolder:
    """The folder of one run. Rank 0 owns it: it locks the folder until the process ends."""

    def __init__(self, folder: Path, runtime: Runtime) -> None:
        """Start the console log. Makes no folder. Errors: PointDetError if another process trains in it."""
        self.path, self._runtime = folder, runtime
        self._lock: RunLock | None = None
        log_to_console(runtime.ranks.rank)
        keep_warnings(runtime.ranks)
        logger.info("%s", runtime.describe())
        if runtime.ranks.rank == 0 and folder.is_dir():
            self._lock = RunLock(folder)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.release()

    def checkpoint(self, resume: Resume, iteration: int = 0) -> Path | None:
        """The checkpoint to resume: the one after `iteration` updates, else the last one that is whole.

        Returns None if a new run starts. Errors: PointDetError when a run would be overwritten, or when there
        is no checkpoint to resume.
        """
        return from_rank_0(self._runtime.ranks, lambda: self._choose(resume, iteration))

    def _choose(self, resume: Resume, iteration: int) -> Path | None:
        folder = self.path / "checkpoints"
        finish_replacements(folder)
        found = checkpoints.by_iteration(folder)
        if (found or (folder / "last").exists()) and resume == "never" and not iteration:
            raise PointDetError(
                f"{self.path} already holds a run; add --resume to continue it, or choose another -o"
            )
        if iteration:
            if not found:
                raise PointDetError(f"there is no checkpoint to resume in {self.path}; start without --iter")
            return checkpoints.at_iteration(folder, iteration)
        candidates = checkpoints.candidates(folder)
        for path in candidates:
            if (fault := checkpoints.fault(path)) is None:
                return path
            logger.warning("%s; an older checkpoint is tried", fault)
        if found or candidates:
            raise PointDetError(
                f"no checkpoint in {self.path} can be resumed; start a new run from one with --checkpoint"
            )
        if resume == "always":
            raise PointDetError(f"there is no checkpoint to resume in {self.path}; start without --resume")
        return None

    def open(self, config: Config) -> None:
        """Make the folder with config.yaml, environment.txt and log.txt.

        Errors: PointDetError when the folder cannot be written, or when another process trains in it.
        """
        if self._runtime.ranks.rank == 0:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                self._lock = self._lock or RunLock(self.path)
                _keep(self.path / "config.yaml", load.dump(config))
                write_text(self.path / "environment.txt", environment(self._runtime.describe()))
                log_to_file(self.path)
            except OSError as error:
                raise PointDetError(
                    f"cannot write to {self.path} ({error.strerror}); choose another -o"
                ) from None
        self._runtime.ranks.broadcast(None)  # the other ranks wait until the folder exists

    def set_aside_newer(self, iteration: int) -> None:
        """Move the checkpoints after `iteration` to a folder set_aside_N, so that none is replaced."""
        if self._runtime.ranks.rank == 0:
            aside = checkpoints.set_aside(self.path / "checkpoints", iteration)
            if aside is not None:
                logger.info("the checkpoints after iteration %d are now in %s", iteration, aside)


def _keep(path: Path, text: str) -> None:
    """Write a file. A predecessor with another text is kept: config.yaml as config_1.yaml, config_2.yaml, ..."""
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        numbered = (path.with_stem(f"{path.stem}_{n}") for n in itertools.count(1))
        path.rename(next(free for free in numbered if not free.exists()))
    write_text(path, text)
