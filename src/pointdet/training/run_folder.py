# SPDX-License-Identifier: Apache-2.0
"""The run folder: find the checkpoint to resume, and write the first files of a run."""

from __future__ import annotations

import logging
from pathlib import Path

from pointdet.config import load
from pointdet.config.schema import Config
from pointdet.errors import PointDetError
from pointdet.files import finish_replacements
from pointdet.runtime import Runtime
from pointdet.training.journal import environment, log_to_console, log_to_file
from pointdet.weights import checkpoint as checkpoints

logger = logging.getLogger("pointdet")


def begin(folder: Path, resume: bool, runtime: Runtime, iteration: int = 0) -> Path | None:
    """Start the console log and find the checkpoint to resume. Makes no folder and no file.

    Returns the checkpoint after `iteration` updates, else the last one, or None if the folder has no
    checkpoint. Errors: PointDetError when a run would be overwritten, or when there is no checkpoint to
    resume.
    """
    log_to_console(runtime.ranks.rank)
    chosen = None
    if runtime.ranks.rank == 0:
        finish_replacements(folder / "checkpoints")
        found = checkpoints.by_iteration(folder / "checkpoints")
        if found and not (resume or iteration):
            raise PointDetError(
                f"{folder} already holds a run; add --resume to continue it, or choose another -o"
            )
        if not found and (resume or iteration):
            raise PointDetError(
                f"there is no checkpoint to resume in {folder}; start without {'--iter' if iteration else '--resume'}"
            )
        if iteration:
            chosen = checkpoints.at_iteration(folder / "checkpoints", iteration)
        elif found:
            chosen = checkpoints.find(folder / "checkpoints" / "last") or found[-1][1]
    chosen_by_rank_0: Path | None = runtime.ranks.broadcast(chosen)
    logger.info("%s", runtime.describe())
    return chosen_by_rank_0


def set_aside_newer(folder: Path, iteration: int, runtime: Runtime) -> None:
    """Move the checkpoints after `iteration` to a folder set_aside_N, so that none is replaced."""
    aside = checkpoints.set_aside(folder / "checkpoints", iteration) if runtime.ranks.rank == 0 else None
    if aside is not None:
        logger.info("the checkpoints after iteration %d are now in %s", iteration, aside)


def open_folder(folder: Path, config: Config, runtime: Runtime) -> None:
    """Make the run folder with config.yaml, environment.txt and log.txt.

    Errors: PointDetError when the folder cannot be written.
    """
    if runtime.ranks.rank == 0:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.yaml").write_text(load.dump(config), encoding="utf-8")
            (folder / "environment.txt").write_text(environment(runtime.describe()), encoding="utf-8")
            log_to_file(folder)
        except OSError as error:
            raise PointDetError(f"cannot write to {folder} ({error.strerror}); choose another -o") from None
    runtime.ranks.broadcast(None)  # the other ranks wait until the folder exists
