# SPDX-License-Identifier: Apache-2.0
"""The files of a pack, as they will be on the GPU machine."""

from __future__ import annotations

from typing import NamedTuple

from fatbin import Pruned

SITE = "python/lib/python3.10/site-packages/"


class File(NamedTuple):
    data: bytes | Pruned
    executable: bool
    group: str  # for the sizes that make.py prints, and for the order in the pack


class Tree:
    """Paths -> files, and paths of symbolic links -> targets."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}
        self.links: dict[str, str] = {}

    def add(self, path: str, data: bytes | Pruned, executable: bool = False, group: str = "python") -> None:
        self.files[path] = File(data, executable, group)
