# SPDX-License-Identifier: Apache-2.0
"""Named arrays in safetensors files and NumPy's .npz files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pointdet.arrays import AnyArray, Arrays, Float32Array
from pointdet.available_memory import require
from pointdet.errors import PointDetError
from pointdet.files import replacing
from pointdet.weights import npz_file, zip_file

SUFFIXES = (".safetensors", ".npz")


def read(path: Path) -> Arrays:
    """Read the arrays by name as float32. Errors: PointDetError if the file is missing or incomplete."""
    if not path.is_file():
        raise PointDetError(f"there is no weight file {path}; give an existing file")
    try:
        arrays = npz_file.read(path) if path.suffix == ".npz" else _safetensors(path)
    except (*zip_file.ERRORS, SafetensorError):
        raise PointDetError(
            f"{path} is not a whole {path.suffix} file of numbers; copy or download it again"
        ) from None
    return {name: _as_float32(path, name, array) for name, array in arrays.items()}


def _safetensors(path: Path) -> dict[str, AnyArray]:
    """The library checks the header against the size of the file. Errors: SafetensorError, OSError."""
    require(path.stat().st_size, f"reading {path}", "give a file of weights")
    try:
        return load_file(path)
    # The library looks up the type in tables and in NumPy, which has no bfloat16 and no float8.
    except (AttributeError, KeyError, TypeError):
        raise PointDetError(
            f"{path} has tensors of a type that NumPy does not have, such as bfloat16 or float8; convert it to float32"
        ) from None


def _as_float32(path: Path, name: str, array: AnyArray) -> Float32Array:
    if array.dtype.kind not in "fiub":
        raise PointDetError(
            f"{name} of {path} consists of {array.dtype} instead of real numbers; leave it out"
        )
    with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite, as in torch
        return np.asarray(array, np.float32)


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
