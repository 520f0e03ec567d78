# SPDX-License-Identifier: Apache-2.0
"""Named arrays in safetensors files and NumPy's .npz files."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from pointdet.arrays import AnyArray, Arrays, Float32Array
from pointdet.available_memory import require
from pointdet.errors import PointDetError
from pointdet.files import replacing
from pointdet.weights import kind, npz_file, zip_file

SUFFIXES = (".safetensors", ".npz")


def read(path: Path) -> Arrays:
    """Read the arrays by name as float32.

    Errors: PointDetError if the file is missing, of another kind or incomplete, or has kernels of integers.
    """
    if not path.is_file():
        raise PointDetError(f"there is no weight file {path}; give an existing file")
    kind.check(path, "safetensors", "npz", "other")
    try:
        arrays = npz_file.read(path) if kind.of(path) == "npz" else _safetensors(path)
    except (*zip_file.ERRORS, SafetensorError):
        raise PointDetError(
            f"{path} is not a whole {path.suffix} file of numbers; copy or download it again"
        ) from None
    return {name: _as_float32(path, name, array) for name, array in arrays.items()}


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata that `write` was given, or another program; of a file that `read` can read."""
    try:
        if kind.of(path) == "safetensors":
            with safe_open(path, "numpy") as file:
                return dict(file.metadata() or {})
        with zip_file.opened(path) as archive:
            found = json.loads(archive.comment or b"{}")
    except (*zip_file.ERRORS, SafetensorError, RecursionError):
        return {}  # the comment of another program
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


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
    if array.dtype.kind in "iub" and array.ndim == kind.KERNEL:
        raise kind.of_integers(path, name, str(array.dtype))
    with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite, as in torch
        return np.asarray(array, np.float32)


def write(path: Path, arrays: Arrays, metadata: Mapping[str, str]) -> None:
    """Write the arrays with `metadata`. In an .npz file these are JSON in the comment of the zip file.

    Errors: PointDetError if the file cannot be written, for example because the disk is full, or if the metadata
    are too long for .npz.
    """
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    comment = json.dumps(metadata).encode() if path.suffix == ".npz" and metadata else b""
    if len(comment) > zipfile.ZIP_MAX_COMMENT:
        raise PointDetError(
            f"the settings and class names are too long for {path}; write a .safetensors file"
        )
    with replacing(path) as writing:
        if path.suffix == ".npz":
            np.savez(writing, **contiguous)
            with zipfile.ZipFile(writing, "a") as archive:
                archive.comment = comment
            return
        try:
            save_file(contiguous, writing, {"format": "pt", **metadata})
        except SafetensorError as error:
            raise OSError(str(error)) from None
