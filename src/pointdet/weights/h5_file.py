# SPDX-License-Identifier: Apache-2.0
"""NNabla's parameter files (.h5): one dataset per parameter, with the attributes index and need_grad."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pointdet.arrays import Arrays, Float32Array
from pointdet.available_memory import require
from pointdet.errors import PointDetError, last_line
from pointdet.weights import kind

MAX_RATIO = 1032  # bytes that deflate can make of one byte


def read(path: Path) -> Arrays:
    """Read the arrays by parameter path, in the order in which they were written.

    Only the file itself is read: soft and external links, external storage and virtual datasets are not followed.
    Without compression the arrays are not larger than the file, and with compression at most 1,032 times as large.

    Errors: PointDetError if the file is missing, of another kind, incomplete, has no parameters or anything but
    numbers, or kernels of integers.
    """
    if not path.is_file() and not path.is_dir():
        raise PointDetError(f"there is no parameter file {path}; give an existing .h5 file")
    kind.check(path, "h5", "other")
    with _opened(path, path, path.stat().st_size) as datasets:
        arrays = {name: _read(item) for name, item in datasets}
    if not arrays:
        raise PointDetError(
            f"{path} holds no parameters; give a parameter file written by NNabla or PointDet"
        )
    return arrays


def check(path: Path, content: bytes) -> None:
    """Check a parameter file in memory, which is a part of the file `path`. Errors: as `read`."""
    with _opened(path, io.BytesIO(content), len(content)):
        pass


@contextmanager
def _opened(path: Path, source: Path | io.BytesIO, size: int) -> Iterator[list[tuple[str, Any]]]:
    """Name and dataset of every parameter in a file of `size` bytes. Errors: as `read`."""
    try:
        with h5py.File(source, "r") as file:
            found = _datasets(path, file, size)
            require(sum(item.nbytes for _, item in found), f"reading {path}", "give a file of weights")
            yield found
    # HDF5 is a C library, and h5py maps its errors, also those of damaged files, to almost any exception.
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise PointDetError(
            f"{path} is not a whole .h5 file ({last_line(error)}); copy or download it again"
        ) from None


def _datasets(path: Path, file: Any, size: int) -> list[tuple[str, Any]]:
    """Name and dataset of every parameter, in the order of their attribute `index`."""
    found: list[tuple[int, str, Any]] = []

    def visit(name: str, item: Any) -> None:  # hard links only
        if isinstance(item, h5py.Dataset):
            _check(path, name, item, size)
            found.append((_index(item, len(found)), name, item))

    file.visititems(visit)
    return [(name, item) for _, name, item in sorted(found, key=lambda entry: entry[0])]


def _check(path: Path, name: str, item: Any, size: int) -> None:
    """Errors: PointDetError if the values are not numbers in this file, as many as the file has room for."""
    if item.dtype.kind not in "fiub" or item.shape is None:
        raise PointDetError(
            f"{name} of {path} is text or other data instead of numbers; give a parameter file of NNabla or PointDet"
        )
    if item.dtype.kind in "iub" and len(item.shape) == kind.KERNEL:
        raise kind.of_integers(path, name, str(item.dtype))
    if item.external or item.is_virtual:
        raise PointDetError(
            f"the values of {name} of {path} are in other files; give a file that contains them"
        )
    ratio = MAX_RATIO if item.chunks and item.id.get_create_plist().get_nfilters() else 1
    if item.nbytes > ratio * size:
        raise PointDetError(
            f"{name} of {path} is {item.nbytes >> 20:,} MiB, more than the file; copy or download it again"
        )


def _index(item: Any, default: int) -> int:
    """The attribute `index` of a dataset, or `default` if it has none that is a number."""
    if "index" not in item.attrs:
        return default
    attribute = item.attrs.get_id("index")
    return int(item.attrs["index"]) if attribute.shape == () and attribute.dtype.kind in "iu" else default


def _read(item: Any) -> Float32Array:
    with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite, as in NNabla
        return np.asarray(item[...], np.float32)


def write(path: Path, parameters: Mapping[str, tuple[Float32Array, bool]]) -> None:
    """Write parameters, which maps a path to (array, need_grad). Errors: OSError if the disk is full."""
    content = io.BytesIO()  # HDF5 cannot close a file on a full disk, so it writes to memory
    with h5py.File(content, "w") as file:
        for index, (name, (array, need_grad)) in enumerate(parameters.items()):
            dataset = file.create_dataset(name, data=np.asarray(array, np.float32))
            dataset.attrs["index"] = index
            dataset.attrs["need_grad"] = need_grad
    path.write_bytes(content.getbuffer())


def write_solver(path: Path, states: Mapping[str, tuple[int, Mapping[str, Float32Array]]]) -> None:
    """Write the states of a solver like NNabla's `save_states`, but through memory, see `write`.

    states: parameter path -> (number of updates, moments by name). Errors: OSError if the disk is full.
    """
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for index, (name, (updates, moments)) in enumerate(states.items()):
            group = file.create_group(name)
            group.create_dataset("t", data=updates)
            group.attrs["index"] = index
            for number, (moment, array) in enumerate(moments.items()):
                group.create_dataset(moment, data=np.asarray(array, np.float32))
                group[moment].attrs["index"] = number
    path.write_bytes(content.getbuffer())
