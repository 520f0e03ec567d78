# SPDX-License-Identifier: Apache-2.0
"""Networks from files, drop-ins for `Network`: .onnx in ONNX Runtime, .nnp in NNabla's own loader."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from pointdet.errors import PointDetError
from pointdet.inference.card import Card
from pointdet.structures import Maps

METADATA = "pointdet"  # the entry of an .onnx file's metadata that is its card, as JSON
NNP_NETWORK = "runtime"  # the name of the network in an .nnp file


class ExportedNetwork(Protocol):
    @property
    def card(self) -> Card: ...

    def __call__(self, images: npt.NDArray[np.uint8]) -> Maps:
        """(B, H, W, 3) BGR, of sides it takes -> maps (B, K, h, w) float32 by name."""


class OnnxNetwork:
    """An exported .onnx in ONNX Runtime on the CPU; any batch, and any sides that the card allows."""

    def __init__(self, path: Path, content: bytes | None = None) -> None:
        """`content`: the file's, where it was never written. Errors: PointDetError for a file that is none of ours."""
        runtime = onnx_runtime()
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # its exceptions say the same
        options.intra_op_num_threads = threads()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
        try:
            source = path.read_bytes() if content is None else content
            self._session: Any = runtime.InferenceSession(source, options, ["CPUExecutionProvider"])
        except OSError as error:
            raise PointDetError(f"cannot read {path} ({error.strerror})") from None
        except Exception as error:  # noqa: BLE001  whatever C++ throws
            raise PointDetError(
                f"{path} is not a network that ONNX Runtime can load ({_brief(error)}); export it again"
            ) from None
        told = self._session.get_modelmeta().custom_metadata_map
        self.card = Card.read(json.loads(told.get(METADATA, "{}")), path)
        self._path = path
        self._names = [output.name for output in self._session.get_outputs()]

    def __call__(self, images: npt.NDArray[np.uint8]) -> Maps:
        self.card.check(images, self._path)
        return dict(
            zip(self._names, self._session.run(self._names, {"image": self.card.fed(images)}), strict=True)
        )


class NnpNetwork:
    """A saved .nnp with the card beside it, run by NNabla's own functions; one input size, batches in parts."""

    def __init__(self, path: Path) -> None:
        """Errors: PointDetError for a file that NNabla cannot load, or without its card."""
        import nnabla.functions as F  # .onnx files do without
        from nnabla.utils.nnp_graph import NnpLoader

        try:
            network: Any = NnpLoader(str(path)).get_network(NNP_NETWORK)
            self._image = network.inputs["image"]
        except (OSError, ValueError, KeyError, RuntimeError, BadZipFile) as error:
            raise PointDetError(f"{path} is not a network saved by PointDet ({_brief(error)})") from None
        self.card = read_card(path)
        self._path = path
        self._outputs = dict(network.outputs)
        self._sink = F.sink(*self._outputs.values())

    def __call__(self, images: npt.NDArray[np.uint8]) -> Maps:
        fed = self.card.fed(images)
        batch, *shape = self._image.shape
        if list(fed.shape[1:]) != shape:
            height, width = self.card.config.input.height, self.card.config.input.width
            raise PointDetError(
                f"{self._path} was saved for inputs of {height} x {width}, not {images.shape[1]} x {images.shape[2]}; "
                "save it with this --input_h and --input_w"
            )
        parts = [self._forward(fed[start : start + batch]) for start in range(0, len(fed), batch)]
        return {name: np.concatenate([part[name] for part in parts]) for name in self._outputs}

    def _forward(self, fed: npt.NDArray[Any]) -> Maps:
        image = self._image.data.cast(fed.dtype)
        image[: len(fed)], image[len(fed) :] = fed, 0
        self._sink.forward()
        return {name: np.array(v.d[: len(fed)], np.float32) for name, v in self._outputs.items()}


def load(path: Path) -> ExportedNetwork:
    """The network of an .onnx or .nnp file."""
    return OnnxNetwork(path) if path.suffix == ".onnx" else NnpNetwork(path)


def read_card(path: Path) -> Card:
    """The card beside an .nnp file. Errors: PointDetError where it is missing or broken."""
    beside = path.with_suffix(".json")
    try:
        return Card.read(json.loads(beside.read_text(encoding="utf-8")), beside)
    except (OSError, ValueError):
        raise PointDetError(
            f"{path} needs {beside.name} beside it, which was saved with it; save the network again"
        ) from None


def onnx_runtime() -> Any:
    """ONNX Runtime. Errors: PointDetError where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        raise PointDetError("ONNX Runtime is not installed; pip install -r requirements-onnx.txt") from None
    return onnxruntime


def threads() -> int:
    """Of one session: OMP_NUM_THREADS, which mpirun's ranks share the cores by, or the cores of this process."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(os.environ.get("OMP_NUM_THREADS", cores))


def _brief(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
