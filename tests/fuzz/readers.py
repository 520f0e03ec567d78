# SPDX-License-Identifier: Apache-2.0
"""The readers of files that are tested with mutated input. Each one reads `data` in an empty folder."""

import itertools
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from pointdet.training.run_checkpoints import RunCheckpoints


@dataclass(frozen=True)
class Reader:
    """`read(folder, data)` writes the input as a file and reads it as the programs do."""

    read: Callable[[Path, bytes], object]
    tokens: tuple[bytes, ...]  # words of the format, which mutations insert
    is_json: bool = False
    share: float = 1.0  # of the inputs: fewer for slow readers
    named: tuple[str, ...] = ("input",)  # a sentence of refusal contains one of them: the file's name


def _image_files(folder: Path, names: tuple[str, ...]) -> None:
    ready = folder.parent / "image.png"
    if not ready.exists():
        cv2.imwrite(str(ready), np.full((40, 60, 3), 90, np.uint8))
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ready, folder / name)


def _coco(folder: Path, data: bytes) -> object:
    from pointdet.config.schema import SplitConfig
    from pointdet.data.coco import read_coco

    _image_files(folder, ("images/a.png", "images/b.png", "images/c.png"))
    path = _written(folder / "input.json", data)
    dataset = read_coco("fuzz", folder, SplitConfig(annotations=(path.name,), images="images"), None)
    return ", ".join(dataset.class_names)


def _voc_folder(folder: Path, annotation: bytes | None, image_set: bytes) -> object:
    from pointdet.config.schema import SplitConfig
    from pointdet.data.voc import read_voc

    _image_files(folder, ("JPEGImages/a.png", "JPEGImages/b.png", "JPEGImages/c.png"))
    whole = b"<annotation><object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax>"
    whole += b"<ymax>9</ymax></bndbox></object></annotation>"
    for stem in ("a", "b", "c"):
        _written(folder / "Annotations" / f"{stem}.xml", whole)
    if annotation is not None:
        _written(folder / "Annotations" / "input.xml", annotation)
        _image_files(folder, ("JPEGImages/input.png",))
    _written(folder / "ImageSets" / "Main" / "input.txt", image_set)
    split = SplitConfig(annotations=("ImageSets/Main/input.txt",))
    return ", ".join(read_voc("fuzz", folder, split, None).class_names)


def _class_names(folder: Path, data: bytes) -> object:
    from pointdet.weights.class_names import named

    return named(str(_written(folder / "input.txt", data)))


def _yaml(folder: Path, data: bytes) -> object:
    from pointdet.config.load import dump, load

    return dump(load(_written(folder / "input.yaml", data)))


def _override(folder: Path, data: bytes) -> object:
    from pointdet.config.load import load

    whole = b"dataset: {dataset: input, format: coco}\n"
    return load(_written(folder / "input.yaml", whole), [data.decode("utf-8", "replace")])


def _journal(folder: Path, name: str, data: bytes) -> object:
    from pointdet.training.journal import Journal

    (folder / "journal.csv").write_text("epoch,step,AP,lr,total\n1,1,,0.1,0.2\n", encoding="utf-8")
    _written(folder / name, data)
    Journal(folder, ["AP", "lr", "total"], 5).close()
    return None


def _state(folder: Path, data: bytes) -> object:
    """As `restore` reads a checkpoint, without building its network."""
    from pointdet.weights import checkpoint, h5_file

    _written(folder / "input" / "state.json", data)
    if not (folder / "input" / "parameters.h5").exists():
        h5_file.write(folder / "input" / "parameters.h5", {"x": (np.zeros(1, np.float32), True)})
    checkpoint.by_iteration(folder)
    state = checkpoint.read_state(
        folder / "input", *([checkpoint.MODEL] if hasattr(checkpoint, "MODEL") else [])
    )
    config, names = checkpoint.config(folder / "input", state), tuple(state["class_names"])
    weights = folder / "input" / state["weights"]
    assert weights.resolve().parent == (folder / "input").resolve(), "the weights are outside of the folder"
    return h5_file.read(weights), config, ", ".join(names)


def _resumed(folder: Path, data: bytes) -> object:
    """As a training resumes: whether the checkpoint is whole, then everything in it."""
    from pointdet.errors import PointDetError
    from pointdet.training.progress import Progress
    from pointdet.weights import checkpoint

    shutil.copytree(folder.parent / "corpus" / "run" / "last", folder / "input")
    _written(folder / "input" / "state.json", data)
    if (fault := checkpoint.fault(folder / "input")) is not None:
        raise PointDetError(fault)
    progress = Progress(4, "coco")
    run_checkpoints(Path()).load(folder / "input", progress)
    return progress


@cache
def run_checkpoints(folder: Path) -> "RunCheckpoints":
    """Those of a run of the smallest network there is, in `folder`."""
    import tiny

    from pointdet.training.moving_average import MovingAverage
    from pointdet.training.run_checkpoints import RunCheckpoints
    from pointdet.training.solver import Solver

    model = tiny.model(tiny.config(Path("data"), "train.ema_decay=0.5"))
    parameters, config = model.detector.parameters(), model.config
    solver = Solver(config.train, config.mixed_precision, parameters)
    return RunCheckpoints(folder, model, solver, MovingAverage(parameters, 0.5, in_blocks=True))


def _notes(folder: Path, data: bytes) -> object:
    """The notes in the metadata of an exported weight file."""
    from pointdet.conversion.notes import KEY, Notes

    notes = Notes.read({KEY: data.decode("utf-8", "replace")}, folder / "input.safetensors")
    return None if notes is None else (notes.config, ", ".join(notes.class_names))


def _plain(suffix: str) -> Callable[[Path, bytes], object]:
    def read(folder: Path, data: bytes) -> object:
        from pointdet.weights import plain_file

        return _sums(plain_file.read(_written(folder / f"input{suffix}", data)))

    return read


def _h5(folder: Path, data: bytes) -> object:
    from pointdet.weights import h5_file

    return _sums(h5_file.read(_written(folder / "input.h5", data)))


def _torch(folder: Path, data: bytes) -> object:
    from pointdet.weights import torch_file

    return _sums(torch_file.read(_written(folder / "input.pth", data)))


def _onnx(folder: Path, data: bytes) -> object:
    from pointdet.model.exported import OnnxNetwork

    return OnnxNetwork(_written(folder / "input.onnx", data))(np.zeros((1, 64, 64, 3), np.uint8))


def _nnp(folder: Path, data: bytes) -> object:
    from pointdet.model.exported import NnpNetwork

    shutil.copy(folder.parent / "corpus" / "nnp metadata" / "0", folder / "input.json")
    return NnpNetwork(_written(folder / "input.nnp", data))(np.zeros((1, 64, 64, 3), np.uint8))


def _nnp_metadata(folder: Path, data: bytes) -> object:
    from pointdet.model.exported import read_metadata

    metadata = read_metadata(_written(folder / "input.json", data).with_suffix(".nnp"))
    return ", ".join(metadata.class_names), metadata.network_input(np.zeros((1, 64, 64, 3), np.uint8))


def _image(folder: Path, data: bytes) -> object:
    from pointdet.data.images import ImageFault, read_image, read_size

    path = _written(folder / "input.img", data)
    faults = []
    for read in (read_size, read_image, lambda p: read_image(p, 40, 64), lambda p: read_image(p, 40, 64, 2)):
        try:
            read(path)
        except ImageFault as fault:
            faults.append(fault)
    if faults:
        raise faults[0]
    return None


def _video(folder: Path, data: bytes) -> object:
    from pointdet.inference.sources import open_source

    frames = open_source(str(_written(folder / "input.mp4", data))).frames()
    return [frame.image.sum() for frame in itertools.islice(frames, 20)]


def _sums(arrays: dict[str, np.ndarray]) -> float:
    """A number for which every value of the arrays must be read."""
    with np.errstate(all="ignore"):
        return sum(float(np.asarray(array, np.float64).sum()) for array in arrays.values())


def _written(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _misbehaving(folder: Path, data: bytes) -> object:
    """Does in turn everything that a reader may not do; the test of the harness itself uses it."""
    from pointdet.errors import PointDetError

    counter = folder.parent / "count"
    number = int(counter.read_text()) if counter.exists() else 0
    counter.write_text(str(number + 1))
    match number:
        case 1:  # 0, 8 and 10 are the seed, which each new process reads first
            raise KeyError("a traceback")
        case 2:
            raise PointDetError("input is refused")
        case 3:
            raise PointDetError("a sentence without the name of the file")
        case 4:
            print("printed", flush=True)
        case 5:
            os.system("true")
        case 6:
            bytearray(1 << 40)
        case 7:
            os.kill(os.getpid(), signal.SIGFPE)
        case 9:
            time.sleep(600)
    return None


XML = (
    b'encoding="utf-7"', b'encoding="none-such"', b'encoding="rot13"', b"<object>", b"</object>", b"<bndbox/>",
    b'<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;&b;">]>', b"&c;", b"&#0;", b"<![CDATA[", b"<!--",
    b"<a>" * 3000, b"<size>", b"<name></name>",
)  # fmt: skip
YAML = (
    b"!!int x", b"!!float x", b"!!timestamp x", b"!!binary x", b"!!set {a, b}", b"!!python/object/apply:os.getcwd []",
    b"&a [*a]", b"*a", b"&a ", b"<<: *a", b"? ", b"[" * 3000, b"{a: " * 1500, b"- ", b": ", b"\t", b"~", b"[]",
    b"&a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b,*b]\n", b"---\n", b"1:2:3",
)  # fmt: skip
JSON = (b"null", b"NaN", b"-Infinity", b"[" * 3000, b'"\\ud800"', b"{}", b"[]", b'"', b",", b":", b"1e999")
ZIP = (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"\x93NUMPY")
NPY = (*ZIP, b"'descr': '|O'", b"'<f8'", b"'shape': (1000000000000,)", b"True", b"(" * 200, b"-1")
MISBEHAVING = Reader(_misbehaving, (b"x",))
READERS = {
    "coco": Reader(_coco, JSON, is_json=True),
    "voc xml": Reader(lambda folder, data: _voc_folder(folder, data, b"a\ninput\n"), XML),
    "voc list": Reader(lambda folder, data: _voc_folder(folder, None, data), (b"../", b"/", b" 1", b"a" * 300), named=("input", ".xml")),
    "class names": Reader(_class_names, (b"\n", b"\x85", b"cat")),
    "yaml": Reader(_yaml, YAML),
    "override": Reader(_override, (*YAML, b"=", b".", b"train.", b"=[", b"test.scales=1e30"), named=("--set",)),
    "journal table": Reader(
        lambda folder, data: _journal(folder, "journal.csv", data), (b",", b'"', b"\n", b"\n\n", b"\0" * 80), share=0.5
    ),
    "journal series": Reader(
        lambda folder, data: _journal(folder, "monitor/lr.series.txt", data), (b" ", b"\n", b"\0" * 80), share=0.5
    ),
    "state": Reader(_state, JSON, is_json=True),
    "resumed state": Reader(_resumed, JSON, is_json=True),
    "notes": Reader(_notes, JSON, is_json=True),
    "npz": Reader(_plain(".npz"), NPY),
    "safetensors": Reader(_plain(".safetensors"), (b"F8_E4M3", b"BF16", b"BOOL", b"F64", b"I64", *JSON)),
    "h5": Reader(_h5, (b"\x89HDF\r\n\x1a\n", b"TREE", b"HEAP", b"SNOD", b"OHDR", b"GCOL")),
    "torch": Reader(_torch, (*ZIP, b"\x80\x02", b"cos\nsystem\n(S'x'\ntR.", b"(((", b"}u", b"\x8a\xff")),
    "onnx": Reader(
        _onnx, (b"Relu", b"Conv", b"image", b'"format": 2', b"p\x01", b"\n\x08location\x12\x04../x"), share=0.5
    ),
    "nnp": Reader(_nnp, (*ZIP, b"network", b"Convolution", b"image", b"runtime", b"dim: 99999999"), share=0.25),
    "nnp metadata": Reader(_nnp_metadata, JSON, is_json=True),
    "image": Reader(_image, (b"IHDR", b"IDAT", b"PLTE", b"eXIf", b"acTL", b"\xff\xd8", b"\xff\xc0", b"\xff\xda", b"II*\0"), share=2),
    "video": Reader(_video, (b"moov", b"mdat", b"stts", b"avcC", b"RIFF", b"idx1"), share=0.25),
}  # fmt: skip
