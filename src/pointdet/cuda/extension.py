# SPDX-License-Identifier: Apache-2.0
"""NNabla's CUDA extension: its import on one card, and a check that NNabla computes there."""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import nnabla as nn
import nnabla.functions as F

from pointdet.cuda import cards, driver, libraries, open_mpi
from pointdet.cuda.driver import USE_THE_CPU
from pointdet.errors import PointDetError, last_line

NAME = "nnabla_ext.cudnn"
# Lines that the extension prints at its import. Without MPI, one process misses nothing; the list of incompatible GPUs,
# which needs NVML, has none for CUDA 12.
MEANINGLESS = (
    "openmpi library is not found, distribution training feature is disabled",
    "GPU compatibility could not be verified",
)


def require_installed() -> None:
    """Errors: PointDetError if the extension is not installed."""
    if importlib.util.find_spec("nnabla_ext") is None or importlib.util.find_spec(NAME) is None:
        raise PointDetError(
            f"nnabla-ext-cuda120 is not installed; install it with {libraries.INSTALL}, or {USE_THE_CPU}"
        )


def start(card: str) -> None:
    """Import the extension in such a way that its device 0 is `card`, and compute on it.

    card: an entry of CUDA_VISIBLE_DEVICES, which is set to it.
    Errors: PointDetError if a library is missing, if the card does not work, or if the process already uses another.
    """
    in_use = os.environ.get(cards.VARIABLE, "0").split(",")[0]
    if "nnabla_ext.cuda" in sys.modules and in_use != card:
        raise PointDetError(
            f"this process already uses GPU {in_use}; choose GPU {card} before {NAME} is imported, "
            f"or in another process"
        )
    os.environ[cards.VARIABLE] = card
    libraries.preload()
    with open_mpi.found_by_nnabla(), _quiet():
        try:
            importlib.import_module(NAME)
            _compute()
        except PointDetError:
            raise
        except Exception as error:  # noqa: BLE001  any C++ exception, or a library that is missing
            raise libraries.missing(error) or PointDetError(
                f"GPU {card} cannot be used ({last_line(error)}); see whether nvidia-smi lists it, or {USE_THE_CPU}"
            ) from None


def context(half: bool = False) -> nn.Context:
    """The context of the one visible card.

    It is that of `get_extension_context`, which starts NVML in every call and looks there at the first card of the
    host, whatever CUDA_VISIBLE_DEVICES shows.
    """
    types = ("half", "float") if half else ("float",)
    backends = [f"{backend}:{name}" for backend in ("cudnn", "cuda") for name in types]
    return nn.Context([*backends, "cpu:float"], _array_class(), "0")


def _array_class() -> str:
    """NNabla's default type of array on a GPU. Errors: RuntimeError if CUDA could not be initialised."""
    classes = importlib.import_module(NAME).array_classes()
    if not classes:
        raise RuntimeError(driver.failure())
    return str(classes[0])


def _compute() -> None:
    """Without a function for the GPU, NNabla uses that of the CPU and gives no warning."""
    with nn.context_scope(context()):
        probe = F.relu(nn.Variable((1,)))
        probe.forward()
    if "Cuda" not in probe.parent.info.type_name:
        raise PointDetError(
            f"NNabla computes on the CPU although a GPU was requested; install {NAME} again with {libraries.INSTALL}"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what Python prints and what C++ writes to stderr, and then write all of it but MEANINGLESS.

    A PointDetError says in one sentence what these lines would say, so then none is written.
    """
    printed = io.StringIO()
    hidden: tuple[str, ...] = MEANINGLESS
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            with redirect_stdout(printed):
                yield
        except PointDetError:
            hidden = ("",)
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            written.seek(0)
            text = written.read().decode(errors="replace")
            for lines, stream in ((printed.getvalue(), sys.stdout), (text, sys.stderr)):
                kept = [line for line in lines.splitlines(keepends=True) if not line.startswith(hidden)]
                stream.write("".join(kept))
                stream.flush()
