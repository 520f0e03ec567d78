# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: folders with parameter files and state.json, which are written completely or not at all."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pointdet.config.load import validate
from pointdet.config.schema import Config
from pointdet.errors import PointDetError
from pointdet.files import finish_replacement, replacing_folder, write_text
from pointdet.weights import h5_file

FORMAT = 1
REQUIRED = ("parameters.h5", "solver.h5")  # to resume

logger = logging.getLogger("pointdet")


def save(folder: Path, state: dict[str, Any], write_files: Callable[[Path], None]) -> None:
    """Write the checkpoint `folder`: `state` as state.json, and the files that `write_files(folder)` writes.

    An existing checkpoint is replaced only after everything is written, see `files.replacing_folder`.
    Errors: PointDetError if the folder cannot be written, for example because the disk is full.
    """
    with replacing_folder(folder) as writing:
        write_files(writing)
        (writing / "state.json").write_text(_text(state), encoding="utf-8")


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Replace state.json of an existing checkpoint. Errors: PointDetError if it cannot be written."""
    write_text(folder / "state.json", _text(state))


def remove(folder: Path) -> None:
    """Remove a checkpoint: first state.json, so that a partly removed folder is no checkpoint."""
    (folder / "state.json").unlink(missing_ok=True)
    shutil.rmtree(folder)


def _text(state: dict[str, Any]) -> str:
    return json.dumps({"format": FORMAT, **state}, indent=1)


def find(folder: Path) -> Path | None:
    """`folder` if it is a checkpoint, otherwise None. An interrupted replacement is finished first."""
    finish_replacement(folder)
    return folder if (folder / "state.json").is_file() else None


def by_iteration(folder: Path) -> list[tuple[int, Path]]:
    """(number of updates, path) of the checkpoints in `folder`, in ascending order.

    A checkpoint whose state.json cannot be read is left out, with a warning.
    """
    found = []
    for path in sorted(folder.glob("*/state.json")):
        if not path.parent.name.startswith("."):
            try:
                found.append((iteration(read_state(path.parent)), path.parent))
            except PointDetError as error:
                logger.warning("%s", error)
    return sorted(found)


def candidates(folder: Path) -> list[Path]:
    """The checkpoints in `folder` to resume from, the best choice first: `last`, then the newest ones.

    Those without the state of the solver cannot be resumed and are left out.
    """
    newest = [path for _, path in reversed(by_iteration(folder)) if (path / "solver.h5").is_file()]
    last = folder / "last"
    return [last, *(path for path in newest if path != last)] if last.is_dir() else newest


def fault(folder: Path) -> str | None:
    """Why the checkpoint `folder` is not whole, or None if every file can be read to its end."""
    try:
        config(folder, read_state(folder, TRAINING))
        for name in REQUIRED:
            h5_file.read(folder / name)
        for path in sorted(folder.glob("*.h5")):
            h5_file.read(path)
    except PointDetError as error:
        return str(error)
    return None


def iteration(state: Mapping[str, Any]) -> int:
    """The number of updates before the checkpoint was written; 0 if it was not written by a training."""
    position = state.get("epoch", 0) * state.get("updates_per_epoch", 0) + state.get("update", 0)
    return int(state.get("step", position))


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


def read_state(folder: Path, required: Sequence[str] = ()) -> dict[str, Any]:
    """state.json of a checkpoint. `required`: keys that it must have, such as MODEL.

    `weights` is the name of a file in `folder`, see `KEYS`. Errors: PointDetError if the file is missing, broken or
    has another format, if a required key is missing, or if a value is not of the kind that `KEYS` says.
    """
    path = folder / "state.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise PointDetError(
            f"{folder} is no checkpoint, it has no state.json; give .../checkpoints/best"
        ) from None
    except (ValueError, RecursionError):  # RecursionError: nested too deeply
        raise PointDetError(f"{path} is broken; take another checkpoint of the run") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise PointDetError(f"{path} has another format than {FORMAT}; it needs another version of PointDet")
    for key in required:
        if key not in state:
            raise PointDetError(f"{path} has no {key!r}; take another checkpoint of the run")
    for key, (what, holds) in KEYS.items():
        if key in state and not holds(state[key]):
            raise PointDetError(f"{path}: {key!r} is not {what}; take another checkpoint of the run")
    return state


def config(folder: Path, state: Mapping[str, Any]) -> Config:
    """The configuration in the state of the checkpoint `folder`. Errors: PointDetError if it is none."""
    return validate(state["config"], f"{folder}/state.json")


def _is_file_name(value: Any) -> bool:
    """Of a file in the folder itself: a checkpoint from elsewhere cannot name other files of this machine."""
    return isinstance(value, str) and value not in ("", ".", "..") and not set(value) & {"/", "\\", "\0"}


def _are_names(value: Any) -> bool:
    return (
        isinstance(value, list) and 0 < len(set(map(str, value))) == len(value) and all(map(_is_name, value))
    )


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_COUNT


def _is_number(value: Any) -> bool:
    return type(value) is float or type(value) is int and abs(value) < MAX_COUNT


def _is_loss_scale(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == LOSS_SCALE and all(map(_is_number, value.values()))


MODEL = ("weights", "class_names", "config")  # the keys of every checkpoint
# Those of a checkpoint that was written by a training.
TRAINING = (*MODEL, "epoch", "update", "updates_per_epoch", "best_ap", "ranks", "loss_scale")
LOSS_SCALE = {"value", "good_steps", "skipped_steps", "skips_in_a_row"}
MAX_COUNT = 1 << 53  # beyond it, float64 has gaps
KEYS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "weights": ("the name of a file in this folder", _is_file_name),
    "class_names": ("a list of different names", _are_names),
    "config": ("a mapping of sections", lambda value: isinstance(value, dict)),
    "epoch": ("a number of epochs", _is_count),
    "update": ("a number of updates", _is_count),
    "updates_per_epoch": ("a number of updates", _is_count),
    "step": ("a number of updates", _is_count),
    "images_per_update": ("a number of images", _is_count),
    "validation_due": ("true or false", lambda value: isinstance(value, bool)),
    "ranks": ("a number of ranks", _is_count),
    "best_ap": ("a number or null", lambda value: value is None or _is_number(value)),
    "best_loss": ("a number", _is_number),
    "loss_scale": ("the state of a loss scale", _is_loss_scale),
}
