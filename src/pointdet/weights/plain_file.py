# SPDX-License-Identifier: Apache-2.0
"""Named arrays in safetensors files and NumPy's .npz files."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pointdet.arrays import Arrays
from pointdet.errors import PointDetError
from pointdet.files import replacing

SUFFIXES = (".safetensors", ".npz")


def read(path: Path) -> Arrays:
    """Read the arrays by name as float32. Errors: PointDetError if the file is missing or incomplete."""
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


def write(path: Path, arrays: Arrays, metadata: Mapping[str, str]) -> None:
    """Write the arrays. `metadata` is written to safetensors only; .npz has no metadata.

    Errors: PointDetError if the file cannot be written, for example because the disk is full.
    """
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    with replacing(path) as writing:
        if path.suffix == ".npz":
            np.savez(writing, **contiguous)
            return
        try:
            save_file(contiguous, writing, {"format": "pt", **metadata})
        except SafetensorError as error:
            raise OSError(str(error)) from None
