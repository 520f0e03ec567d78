# SPDX-License-Identifier: Apache-2.0
"""The whole files from which the mutations start, for each reader: folder/READER/NUMBER."""

import io
import json
import pickle
from itertools import pairwise
from pathlib import Path

import cv2
import h5py
import numpy as np
import tiny
import torch_writer
import yaml
from PIL import Image
from safetensors.numpy import save

from pointdet.config.load import dump
from pointdet.conversion.notes import KEY, Notes

IMAGE_NAMES = ("a.png", "b.png", "c.png")
ENTITY = b'<!DOCTYPE annotation [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>\n<annotation'
COLUMNS = ("AP", "lr", "total")


def write(folder: Path) -> None:
    """Write the files of all readers."""
    config = tiny.config(Path("data"))
    files = {
        "coco": [_coco(1), _coco(4)],
        "voc xml": [_voc("cat"), _voc("dog") + b"\n", _voc("&b;").replace(b"<annotation", ENTITY, 1)],
        "voc list": [b"a\nb\nc\n", b"a 1\nb -1\nc 0\n"],
        "class names": [b"cat\ndog\n", "Katze\n犬\n".encode()],
        "yaml": [dump(config).encode(), yaml.safe_dump(tiny.settings(Path("data"))).encode(), _yaml_bomb()],
        "override": [b"train.batch_size=3", b"detector={name: triplet, top_k: 7}", b"test.scales=[1, 0.5]"],
        "journal table": [_table()],
        "journal series": [b"".join(b"%d %.9g\n" % (step, 1 / step) for step in range(1, 9))],
        "state": _states(config),
        "resumed state": [_run(folder / "run")],
        "notes": [Notes(config, ("cat", "dog")).metadata()[KEY].encode()],
        "npz": [_npz(np.savez), _npz(np.savez_compressed)],
        "safetensors": [
            save(_arrays()),
            save(_arrays() | {"h": np.zeros(3, np.float16)}, {"format": "pt"}),
            save(_arrays()).replace(b'"F32"', b'"F8_E4M3"'),
            _float8(),
        ],
        "h5": _h5_files(),
        "torch": _torch_files(),
        "image": _images(),
        "misbehaving": [b"seed"],
        "video": [_video(folder, "mp4v", ".mp4"), _video(folder, "MJPG", ".avi")],
        **_exported(config, folder),
    }
    for reader, contents in files.items():
        (folder / reader).mkdir(parents=True)
        for number, content in enumerate(contents):
            (folder / reader / str(number)).write_bytes(content)


def _coco(objects: int) -> bytes:
    content = {
        "info": {"year": 2020},
        "images": [
            {"id": n, "file_name": name, "height": 40 if n < 3 else 0, "width": 60}
            for n, name in enumerate(IMAGE_NAMES, 1)
        ],
        "categories": [{"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [
            {"id": n, "image_id": 1 + n % 3, "category_id": (5, 2)[n % 2], "bbox": [1, 2.5, 10 + n, 20]}
            | ({"iscrowd": n % 2, "area": 99.5} if n else {})
            for n in range(objects)
        ],
    }
    return json.dumps(content).encode()


def _voc(name: str) -> bytes:
    box = "<bndbox><xmin>5</xmin><ymin>6.5</ymin><xmax>30</xmax><ymax>33</ymax></bndbox>"
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<annotation><filename>a.png</filename>'
        "<size><width>60</width><height>40</height><depth>3</depth></size>"
        f"<object><name>{name}</name><difficult>0</difficult>{box}</object>"
        f"<object><name>bird</name>{box}</object></annotation>"
    ).encode()


def _yaml_bomb() -> bytes:
    """700 characters of aliases that stand for 9^9 values, in a file that has all sections."""
    sections = [
        f"{name}: &{name} {{{', '.join(f'{key}: *{before}' for key in range(9))}}}"
        for before, name in pairwise("abcdefghij")
    ]
    return "\n".join(["dataset: {dataset: toy, format: coco}", "a: &a {x: 1}", *sections]).encode()


def _table() -> bytes:
    rows = "".join(f"1,{step},,{1e-3 / step!r},{1 / step!r}\n" for step in range(1, 9))
    return f"epoch,step,{','.join(COLUMNS)}\n{rows}".encode()


def _states(config) -> list[bytes]:
    state = {
        "format": 1,
        "weights": "parameters.h5",
        "class_names": ["cat", "dog"],
        "config": config.model_dump(mode="json"),
    }
    run = {"epoch": 2, "update": 1, "updates_per_epoch": 4, "best_ap": None, "ranks": 1}
    scale = {"value": 1.0, "good_steps": 0, "skipped_steps": 0, "skips_in_a_row": 0}
    return [json.dumps(content).encode() for content in (state, state | run | {"loss_scale": scale})]


def _run(folder: Path) -> bytes:
    """The state of a checkpoint of a run; its folder is FOLDER/last."""
    from fuzz.readers import run_checkpoints

    from pointdet.training.progress import Progress

    run_checkpoints(folder).save_last(Progress(4, "coco", epoch=1, update=2, step=6))
    return (folder / "last" / "state.json").read_bytes()


def _arrays() -> dict[str, np.ndarray]:
    shapes = {"a/conv/W": (4, 3, 3, 3), "a/conv/b": (4,), "a/bn/beta": (1, 4, 1, 1), "scale": ()}
    return {
        name: np.arange(np.prod(shape), dtype=np.float32).reshape(shape) for name, shape in shapes.items()
    }


def _float8() -> bytes:
    header = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + b"1234"


def _npz(writer) -> bytes:
    out = io.BytesIO()
    writer(out, **_arrays())
    return out.getvalue()


def _h5_files() -> list[bytes]:
    """Parameter files: contiguous, in compressed chunks, and with text, compound data and links."""
    contents = []
    for options in ({}, {"chunks": True, "compression": "gzip", "shuffle": True}):
        out = io.BytesIO()
        with h5py.File(out, "w") as file:
            for index, (name, array) in enumerate(_arrays().items()):
                dataset = file.create_dataset(name, data=array, **(options if array.ndim else {}))
                dataset.attrs["index"], dataset.attrs["need_grad"] = index, True
        contents.append(out.getvalue())
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        file["text"] = "a text"
        file["pairs"] = np.zeros(3, [("x", "f4"), ("y", "i4")])
        file["soft"] = h5py.SoftLink("/a/W")
        file["outside"] = h5py.ExternalLink("other.h5", "/x")
        file["a/W"] = np.ones((2, 2), np.float32)
    contents.append(out.getvalue())
    for options in ({"external": [("/etc/hostname", 0, 16)]}, {"chunks": (2,), "maxshape": (None,)}):
        out = io.BytesIO()
        with h5py.File(out, "w") as file:
            file.create_dataset("a/W", (4,) if "external" in options else (10**12,), "f4", **options)
        contents.append(out.getvalue())
    return contents


class _Touch:
    """Its pickle creates a file when it is loaded by a reader that runs code."""

    def __reduce__(self):
        return open, ("code-was-run", "w")


def _torch_files() -> list[bytes]:
    contents = []
    for layout, dialect in (("zip", "python 3"), ("legacy", "python 3"), ("legacy", "python 2")):
        file = torch_writer.File(layout)
        tensors = {name.replace("/", "."): file.tensor(array) for name, array in _arrays().items()}
        contents.append(file.written({"state_dict": tensors, "epoch": 3}, dialect))
    members = {"archive/data.pkl": pickle.dumps({"x": _Touch()}, 2), "archive/version": b"3\n"}
    return [*contents, torch_writer.zipped(members)]


def _images() -> list[bytes]:
    coarse = np.random.default_rng(0).integers(0, 256, (5, 8, 3), np.uint8)
    pixels = cv2.resize(coarse, (64, 40), interpolation=cv2.INTER_CUBIC)
    progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    kinds = ((".png", []), (".jpg", []), (".jpg", progressive), (".bmp", []), (".webp", []), (".tif", []))
    contents = [cv2.imencode(suffix, pixels, options)[1].tobytes() for suffix, options in kinds]
    turned = Image.Exif()
    turned[0x0112] = 6
    for kind, mode in (("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "P"), ("GIF", "P"), ("PPM", "RGB")):
        out = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(out, kind, exif=turned)
        contents.append(out.getvalue())
    return [*contents, cv2.imencode(".png", pixels.astype(np.uint16) * 257)[1].tobytes()]


def _video(folder: Path, code: str, suffix: str) -> bytes:
    path = folder / f"video{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 10, (64, 48))
    for number in range(6):
        writer.write(np.full((48, 64, 3), 40 * number, np.uint8))
    writer.release()
    return path.read_bytes()


def _exported(config, folder: Path) -> dict[str, list[bytes]]:
    """The files of an exported network of 64 x 64 pixels, with the smallest backbone there is."""
    from pointdet.export import nnp, onnx

    model = tiny.model(config)
    nnp.write(model, folder / "x.nnp")
    return {
        "onnx": [onnx.convert(model).SerializeToString(), _external(onnx.convert(model))],
        "nnp": [(folder / "x.nnp").read_bytes()],
        "nnp metadata": [(folder / "x.json").read_bytes()],
    }


def _external(network) -> bytes:
    """An .onnx file whose first tensor is in another file."""
    tensor = network.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = tensor.EXTERNAL
    tensor.external_data.add(key="location", value="../x")
    return network.SerializeToString()
