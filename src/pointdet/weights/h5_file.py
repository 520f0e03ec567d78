# SPDX-License-Identifier: Apache-2.0
"""NNabla's parameter files (.h5): one dataset for each path, with the attributes index and need_grad."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from pointdet.errors import PointDetError

Arrays = dict[str, npt.NDArray[np.float32]]


def read(path: Path) -> Arrays:
    """The arrays by path, in the order they were written. Errors: PointDetError for anything but a whole file."""
    if not path.is_file():
        raise PointDetError(f"there is no parameter file {path}; give an existing .h5 file")
    found: list[tuple[int, str, npt.NDArray[np.float32]]] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found.append((int(item.attrs.get("index", len(found))), name, np.asarray(item[...], np.float32)))

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except (OSError, RuntimeError) as error:
        raise PointDetError(
            f"{path} is not a whole .h5 file ({str(error).splitlines()[0]}); copy or download it again"
        ) from None
    if not found:
        raise PointDetError(
            f"{path} holds no parameters; give a parameter file written by NNabla or PointDet"
        )
    return {name: array for _, name, array in sorted(found, key=lambda entry: entry[0])}


def write(path: Path, parameters: Mapping[str, tuple[npt.NDArray[np.float32], bool]]) -> None:
    """Write name -> (array, whether it is learnt)."""
    content = io.BytesIO()  # HDF5 gets into a muddle when the disk is full
    with h5py.File(content, "w") as file:
        for index, (name, (array, learnt)) in enumerate(parameters.items()):
            dataset = file.create_dataset(name, data=np.asarray(array, np.float32))
            dataset.attrs["index"] = index
            dataset.attrs["need_grad"] = learnt
    path.write_bytes(content.getbuffer())
