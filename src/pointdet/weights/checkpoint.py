# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: folders with parameter files and state.json, which are written completely or not at all."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pointdet.errors import PointDetError
from pointdet.files import finish_replacement, replacing_folder

FORMAT = 1


def save(folder: Path, state: dict[str, Any], write_files: Callable[[Path], None]) -> None:
    """Write the checkpoint `folder`: `state` as state.json, and the files that `write_files(folder)` writes.

    An existing checkpoint is replaced only after everything is written, see `files.replacing_folder`.
    Errors: PointDetError if the folder cannot be written, for example because the disk is full.
    """
    with replacing_folder(folder) as writing:
        write_files(writing)
        text = json.dumps({"format": FORMAT, **state}, indent=1)
        (writing / "state.json").write_text(text, encoding="utf-8")


def find(folder: Path) -> Path | None:
    """`folder` if it is a checkpoint, otherwise None. An interrupted replacement is finished first."""
    finish_replacement(folder)
    return folder if (folder / "state.json").is_file() else None


def by_iteration(folder: Path) -> list[tuple[int, Path]]:
    """(number of updates, path) of the checkpoints in `folder`, in ascending order."""
    found = [path.parent for path in folder.glob("*/state.json") if not path.parent.name.startswith(".")]
    return sorted((iteration(read_state(path)), path) for path in found)


def iteration(state: dict[str, Any]) -> int:
    """The number of updates before the checkpoint was written; 0 if it was not written by a training."""
    return int(state.get("epoch", 0) * state.get("updates_per_epoch", 0) + state.get("update", 0))


def at_iteration(folder: Path, number: int) -> Path:
    """The checkpoint in `folder` after `number` updates. Errors: PointDetError with the existing ones."""
    found = dict(by_iteration(folder))
    if number not in found:
        known = f"it has those of {', '.join(map(str, found))}" if found else "give the folder of a run"
        raise PointDetError(f"{folder} has no checkpoint of iteration {number}; {known}")
    return found[number]


def set_aside(folder: Path, number: int) -> Path | None:
    """Move the checkpoints with more than `number` updates to a new subfolder, and return it.

    Returns None if there is no such checkpoint.
    """
    newer = [path for count, path in by_iteration(folder) if count > number]
    if not newer:
        return None
    aside = next(path for n in itertools.count(1) if not (path := folder / f"set_aside_{n}").exists())
    aside.mkdir()
    for path in newer:
        path.rename(aside / path.name)
    return aside


def read_state(folder: Path) -> dict[str, Any]:
    """state.json of a checkpoint. Errors: PointDetError if it is missing, broken or has another format."""
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
