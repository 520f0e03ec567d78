# SPDX-License-Identifier: Apache-2.0
"""The Open MPI that NNabla's CUDA extension opens: the one that this process has loaded.

At its import the extension opens $OMPI_HOME/lib/libmpi.so, or else libmpi.so by name. The wheel of Open MPI has no such
library: its libmpi.so is a text for compilers, beside libmpi.so.40.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "OMPI_HOME"


def loaded_library(maps: Path = Path("/proc/self/maps")) -> Path | None:
    """The libmpi of this process; None if it has loaded none."""
    for line in maps.read_text(encoding="utf-8").splitlines():
        *_, path = line.split(maxsplit=5)
        if Path(path).name.startswith("libmpi.so"):
            return Path(path)
    return None


@contextmanager
def found_by_nnabla() -> Iterator[None]:
    """While the extension is imported: OMPI_HOME leads to the libmpi of this process, if it has loaded one.

    NNabla must not open another MPI beside it. The folder with the link is private to this process, so it suits any
    number of ranks and hosts, and it is removed at once: the library stays loaded, and NNabla opens it only once.
    """
    library, before = loaded_library(), os.environ.get(VARIABLE)
    if library is None or _leads_to(before, library):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="pointdet-openmpi-") as folder:
        link = Path(folder, "lib", "libmpi.so")
        link.parent.mkdir()
        link.symlink_to(library)
        os.environ[VARIABLE] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ[VARIABLE]
            else:
                os.environ[VARIABLE] = before


def _leads_to(home: str | None, library: Path) -> bool:
    path = Path(home or "", "lib", "libmpi.so")
    return bool(home) and path.exists() and path.samefile(library)
