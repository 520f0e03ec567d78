# SPDX-License-Identifier: Apache-2.0
"""Named arrays in the files that any program reads: safetensors and NumPy's .npz."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pointdet.errors import PointDetError
from pointdet.weights.h5_file import Arrays

SUFFIXES = (".safetensors", ".npz")


def read(path: Path) -> Arrays:
    """The arrays by name as float32. Errors: PointDetError for anything but a whole file."""
    if not path.is_file():
        raise PointDetError(f"there is no weight file {path}; give an existing file")
    try:
        if path.suffix == ".npz":
            with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
                arrays = dict(file)
        else:
            arrays = load_file(path)
        return {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    except (SafetensorError, zipfile.BadZipFile, OSError, ValueError, TypeError, KeyError, EOFError):
        raise PointDetError(
            f"{path} is not a whole {path.suffix} file of numbers; copy or download it again"
        ) from None


def write(path: Path, arrays: Arrays, notes: Mapping[str, str]) -> None:
    """Write the arrays; the notes have a place in safetensors alone. The file appears whole or not at all.

    Errors: PointDetError when the disk is full or may not be written.
    """
    writing = path.with_name(f".writing.{path.name}")
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npz":
            np.savez(writing, **whole)
        else:
            save_file(whole, writing, {"format": "pt", **notes})
        writing.rename(path)
    except (OSError, SafetensorError) as error:
        if writing.exists():
            writing.unlink()
        raise PointDetError(f"cannot write {path} ({error}); free space or choose another place") from None
