# SPDX-License-Identifier: Apache-2.0
"""NNabla's parameter files (.h5): one dataset per parameter, with the attributes index and need_grad."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pointdet.arrays import Arrays, Float32Array
from pointdet.errors import PointDetError, last_line


def read(path: Path) -> Arrays:
    """Read the arrays by parameter path, in the order in which they were written.

    Errors: PointDetError if the file is missing, incomplete or has no parameters.
    """
    if not path.is_file():
        raise PointDetError(f"there is no parameter file {path}; give an existing .h5 file")
    found: list[tuple[int, str, Float32Array]] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found.append((int(item.attrs.get("index", len(found))), name, np.asarray(item[...], np.float32)))

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except (OSError, RuntimeError) as error:
        raise PointDetError(
            f"{path} is not a whole .h5 file ({last_line(error)}); copy or download it again"
        ) from None
    if not found:
        raise PointDetError(
            f"{path} holds no parameters; give a parameter file written by NNabla or PointDet"
        )
    return {name: array for _, name, array in sorted(found, key=lambda entry: entry[0])}


def write(path: Path, parameters: Mapping[str, tuple[Float32Array, bool]]) -> None:
    """Write parameters, which maps a path to (array, need_grad). Errors: OSError if the disk is full."""
    content = io.BytesIO()  # HDF5 cannot close a file on a full disk, so it writes to memory
    with h5py.File(content, "w") as file:
        for index, (name, (array, need_grad)) in enumerate(parameters.items()):
            dataset = file.create_dataset(name, data=np.asarray(array, np.float32))
            dataset.attrs["index"] = index
            dataset.attrs["need_grad"] = need_grad
    path.write_bytes(content.getbuffer())
