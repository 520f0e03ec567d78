# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: a folder, written beside its place and renamed, so that a killed job never leaves a broken one."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pointdet.errors import PointDetError

FORMAT = 1


def save(folder: Path, state: dict[str, Any], write_files: Callable[[Path], None]) -> None:
    """Write `state` and what `write_files(temporary folder)` adds as the checkpoint `folder`, all or nothing.

    Errors: PointDetError when the disk is full or may not be written; the older checkpoint stays.
    """
    writing, old = _beside(folder)
    try:
        shutil.rmtree(writing, ignore_errors=True)
        writing.mkdir(parents=True)
        write_files(writing)
        (writing / "state.json").write_text(
            json.dumps({"format": FORMAT, **state}, indent=1), encoding="utf-8"
        )
        for file in writing.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        # A rename cannot replace a full folder: between the two renames only `old` exists, and `find` takes it.
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        writing.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, RuntimeError) as error:
        number = _system_error(error)
        if number is None:
            raise
        shutil.rmtree(writing, ignore_errors=True)
        raise PointDetError(
            f"cannot write the checkpoint {folder} ({os.strerror(number)}); free space or choose another output folder"
        ) from None


def find(folder: Path) -> Path | None:
    """The whole checkpoint of this name, or None; an interrupted replacement is completed."""
    _, old = _beside(folder)
    if not folder.exists() and (old / "state.json").is_file():
        old.rename(folder)
    return folder if (folder / "state.json").is_file() else None


def complete(folder: Path) -> None:
    """Complete every interrupted replacement of a checkpoint in `folder`."""
    for old in sorted(folder.glob(".*.old")):
        find(folder / old.name[1 : -len(".old")])


def by_iteration(folder: Path) -> list[tuple[int, Path]]:
    """The whole checkpoints in `folder` and how many updates each has seen, oldest first."""
    found = [path.parent for path in folder.glob("*/state.json") if not path.parent.name.startswith(".")]
    return sorted((iteration(read_state(path)), path) for path in found)


def iteration(state: dict[str, Any]) -> int:
    """The updates done before a checkpoint was written; 0 where it was not written by a training."""
    return int(state.get("epoch", 0) * state.get("updates_per_epoch", 0) + state.get("update", 0))


def at_iteration(folder: Path, number: int) -> Path:
    """The checkpoint in `folder` after `number` updates. Errors: PointDetError with those that there are."""
    found = dict(by_iteration(folder))
    if number not in found:
        known = f"it has those of {', '.join(map(str, found))}" if found else "give the folder of a run"
        raise PointDetError(f"{folder} has no checkpoint of iteration {number}; {known}")
    return found[number]


def set_aside(folder: Path, number: int) -> Path | None:
    """Move the checkpoints in `folder` after more than `number` updates to a new folder there; None: there are none."""
    newer = [path for count, path in by_iteration(folder) if count > number]
    if not newer:
        return None
    aside = next(path for n in itertools.count(1) if not (path := folder / f"set_aside_{n}").exists())
    aside.mkdir()
    for path in newer:
        path.rename(aside / path.name)
    return aside


def read_state(folder: Path) -> dict[str, Any]:
    """state.json of a checkpoint. Errors: PointDetError when it is missing, broken or of a newer format."""
    path = folder / "state.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise PointDetError(
            f"{folder} is no checkpoint, it has no state.json; give .../checkpoints/best"
        ) from None
    except ValueError:
        raise PointDetError(f"{path} is broken; take another checkpoint of the run") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise PointDetError(f"{path} has another format than {FORMAT}; it needs another version of PointDet")
    return state


def _system_error(error: OSError | RuntimeError) -> int | None:
    """The system's number of an error. HDF5 hides it in prose, and in a RuntimeError when it closes a file."""
    told = re.search(r"errno = (\d+)", str(error))
    return int(told[1]) if told else getattr(error, "errno", None)


def _beside(folder: Path) -> tuple[Path, Path]:
    return folder.with_name(f".{folder.name}.writing"), folder.with_name(f".{folder.name}.old")
