# SPDX-License-Identifier: Apache-2.0
"""Exported networks: .onnx files run in ONNX Runtime, .nnp files in NNabla."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pointdet.arrays import Image, Maps
from pointdet.data.library_output import without_library_output
from pointdet.errors import PointDetError, last_line
from pointdet.model import nnp_file
from pointdet.model.metadata import Metadata
from pointdet.model.network import Network

METADATA_KEY = "pointdet"  # the property of an .onnx file that holds its metadata, as JSON
NOT_INSTALLED = "is not installed; pip install -r requirements-onnx.txt, or the extra onnx of pointdet"
NNP_NETWORK = "runtime"  # the name of the network in an .nnp file


class ExportedNetwork(Network, Protocol):
    """A network with the metadata of its file."""

    @property
    def metadata(self) -> Metadata: ...


class OnnxNetwork:
    """An .onnx file in ONNX Runtime on the CPU, for any batch size and any input size its metadata allow."""

    def __init__(self, path: Path, content: bytes | None = None) -> None:
        """`content`: the bytes of the file, for a network in memory; `path` is then used in messages only.

        Errors: PointDetError for a file that cannot be read or was not saved by PointDet.
        """
        runtime = onnx_runtime()
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # the exceptions contain the same messages
        options.intra_op_num_threads = thread_count()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
        try:
            source = _without_external_data(path) if content is None else content
            self._session: Any = runtime.InferenceSession(source, options, ["CPUExecutionProvider"])
        except OSError as error:
            raise PointDetError(f"cannot read {path} ({error.strerror})") from None
        except PointDetError:
            raise
        except Exception as error:  # noqa: BLE001  ONNX Runtime has no common base class
            raise PointDetError(
                f"{path} is not a network that ONNX Runtime can load ({last_line(error)}); export it again"
            ) from None
        try:
            properties = self._session.get_modelmeta().custom_metadata_map
        except ValueError:  # not UTF-8
            raise PointDetError(f"the metadata of {path} are damaged; export it again") from None
        self.metadata = Metadata.read(properties.get(METADATA_KEY, "{}"), path)
        self._path = path
        outputs = {output.name: output.shape[1:2] for output in self._session.get_outputs()}
        self._names = list(outputs)
        self.metadata.check_outputs(outputs, path)

    def __call__(self, images: Image) -> Maps:
        self.metadata.check(images, self._path)
        try:
            maps = self._session.run(self._names, {"image": self.metadata.network_input(images)})
        except Exception as error:  # noqa: BLE001  ONNX Runtime has no common base class
            raise PointDetError(
                f"ONNX Runtime cannot run {self._path} ({last_line(error)}); export it again"
            ) from None
        return dict(zip(self._names, maps, strict=True))


class NnpNetwork:
    """An .nnp file in NNabla. Input size and batch size are fixed; larger batches take several passes."""

    def __init__(self, path: Path, metadata: Metadata | None = None) -> None:
        """metadata: of a file that is being written and has none yet.

        Errors: PointDetError for a file that NNabla cannot load, or whose metadata are missing.
        """
        import nnabla.functions as F  # not needed for .onnx files
        from nnabla.utils.nnp_graph import NnpLoader

        from pointdet.ops.cpu.process_state import building

        try:
            nnp_file.check(path)
            with building:
                network: Any = NnpLoader(str(path)).get_network(NNP_NETWORK)
                self._image = network.inputs["image"]
                self._outputs = dict(network.outputs)
                self._sink = F.sink(*self._outputs.values())
        except PointDetError:
            raise
        except Exception as error:  # noqa: BLE001  NNabla's loader looks up whatever the file names
            raise PointDetError(
                f"{path} is not a network saved by PointDet ({last_line(error)}); export it again"
            ) from None
        self.metadata = metadata or read_metadata(path)
        self.metadata.check_outputs({name: list(v.shape[1:2]) for name, v in self._outputs.items()}, path)
        self._path = path
        self._running = threading.Lock()  # one pass at a time: they share the graph's arrays

    def __call__(self, images: Image) -> Maps:
        inputs = self.metadata.network_input(images)
        if self._image.ndim != 4:
            raise PointDetError(f"the input of {self._path} is not a batch of images; export it again")
        batch, *shape = self._image.shape
        if list(inputs.shape[1:]) != shape:
            height, width = self.metadata.config.input.height, self.metadata.config.input.width
            raise PointDetError(
                f"{self._path} was saved for inputs of {height} x {width}, not {images.shape[1]} x "
                f"{images.shape[2]}; export it with this --input_h and --input_w"
            )
        parts = [self._forward(inputs[start : start + batch]) for start in range(0, len(inputs), batch)]
        return {name: np.concatenate([part[name] for part in parts]) for name in self._outputs}

    def _forward(self, inputs: npt.NDArray[Any]) -> Maps:
        """The maps of at most one batch; zeros fill the rest of the batch."""
        from pointdet.ops.cpu.process_state import forward_pass

        with self._running, forward_pass():
            image = self._image.data.cast(inputs.dtype)
            image[: len(inputs)], image[len(inputs) :] = inputs, 0
            try:
                self._sink.forward()
            except RuntimeError as error:
                raise PointDetError(
                    f"NNabla cannot run {self._path} ({last_line(error)}); export it again"
                ) from None
            return {name: np.array(v.d[: len(inputs)], np.float32) for name, v in self._outputs.items()}


def load(path: Path) -> ExportedNetwork:
    """The network of an .onnx or .nnp file."""
    return OnnxNetwork(path) if path.suffix == ".onnx" else NnpNetwork(path)


def read_metadata(path: Path) -> Metadata:
    """The metadata of an .nnp file, from the .json file of the same name.

    Errors: PointDetError if that file is missing or cannot be parsed.
    """
    json_path = path.with_suffix(".json")
    try:
        text = json_path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise PointDetError(
            f"the metadata of {path}, {json_path}, are not UTF-8 text; export it again"
        ) from None
    except OSError:
        raise PointDetError(
            f"{path} needs {json_path.name}, which was saved with it, in the same folder; export it again"
        ) from None
    return Metadata.read(text, json_path)


def _without_external_data(path: Path) -> bytes:
    """The bytes of an .onnx file whose tensors are all in the file.

    ONNX Runtime would read a tensor with external data from any file that it names, relative to the working folder,
    or from an address in memory. Errors: OSError; PointDetError if there is such a tensor; DecodeError of protobuf.
    """
    try:
        import onnx
    except ImportError:
        raise PointDetError(f"onnx {NOT_INSTALLED}") from None
    content = path.read_bytes()
    with without_library_output():  # protobuf prints what is wrong with a damaged file
        todo: list[Any] = [onnx.ModelProto.FromString(content)]
    while todo:
        message = todo.pop()
        if isinstance(message, onnx.TensorProto) and (message.data_location or message.external_data):
            raise PointDetError(
                f"{path} has a tensor in another file; save it in one file, or export the network again"
            )
        for field, value in message.ListFields():
            if field.message_type is not None:
                todo += value if field.label == field.LABEL_REPEATED else [value]
    return content


def onnx_runtime() -> Any:
    """The module onnxruntime. Errors: PointDetError if it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        raise PointDetError(f"ONNX Runtime {NOT_INSTALLED}") from None
    return onnxruntime


def thread_count() -> int:
    """The number of threads of a session: OMP_NUM_THREADS if it is set, otherwise the cores of this process.

    Under mpirun, OMP_NUM_THREADS divides the cores among the ranks.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(os.environ.get("OMP_NUM_THREADS", cores))
