# SPDX-License-Identifier: Apache-2.0
"""Pascal VOC image sets and XML annotations -> Dataset.

An annotation has at most 16 MiB and declares no entities, because a few lines of them can expand to gigabytes.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from pointdet.config.schema import SplitConfig
from pointdet.data.records import READING_THREADS, ImageList, ObjectList, build_dataset, warn
from pointdet.errors import PointDetError
from pointdet.structures import Dataset

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
ANY_CASE = (*EXTENSIONS, *(extension.upper() for extension in EXTENSIONS))
CORNERS = ("xmin", "ymin", "xmax", "ymax")
MAX_BYTES = 1 << 24  # of an annotation; that of VOC with the most objects has 20 KiB
MAX_SIDE = 2**31  # pixels
SIMILARITY = 0.75  # difflib ratio: class names at least this similar are regarded as a misspelling


@dataclass(frozen=True)
class _Object:
    name: str
    box: tuple[float, ...]  # 0-based
    difficult: bool


@dataclass(frozen=True)
class _Image:
    path: str
    size: tuple[int, int]  # height, width; 0 if the file has no size
    objects: list[_Object]


def read_voc(
    dataset_name: str,
    data_dir: Path,
    split: SplitConfig,
    class_names: Sequence[str] | None,
    selection: bool = True,
) -> Dataset:
    """Read the image sets of a split and join them in the given order.

    Annotations and JPEGImages are in the same folder as ImageSets. Boxes are 1-based in the files and 0-based
    in the Dataset. Difficult objects are marked `ignore`. Labels are in the order of the sorted class names
    found, or of `class_names` if given. In the second case, objects of other classes are left out, with a
    warning (`selection` True), or are an error (`selection` False). Image ids start at 0, category ids at 1.

    Errors: PointDetError for a file that is missing or is not VOC XML, and for a misspelt class name.
    """
    if split.images is not None:
        raise PointDetError(
            "the VOC layout has its images in JPEGImages next to ImageSets; remove the key `images`"
        )
    entries = [entry for name in split.annotations for entry in _read_list(data_dir / name)]
    unique = list(dict.fromkeys(entries))
    warn(len(entries) - len(unique), "images are listed more than once: kept once", _duplicates(entries))
    folders = {root: _Folder(root) for root in dict.fromkeys(root for root, _ in unique)}
    with ThreadPoolExecutor(READING_THREADS) as pool:  # in order; the first error in this order is raised
        images = list(pool.map(lambda entry: _read_xml(folders[entry[0]], entry[1]), unique))

    found = sorted({item.name for image in images for item in image.objects})
    names = found if class_names is None else list(class_names)
    _check_names(names, found, split, selection)
    if not names:
        raise PointDetError(
            f"{', '.join(split.annotations)}: no image of this split has objects; give other lists"
        )
    label_of = {name: label for label, name in enumerate(names)}
    items = [(index, item) for index, image in enumerate(images) for item in image.objects]
    others = [images[index].path for index, item in items if item.name not in label_of]
    left_out = ", ".join(name for name in found if name not in label_of)
    warn(len(others), f"objects of classes that are not in the class names ({left_out}) are left out", others)
    items = [(index, item) for index, item in items if item.name in label_of]
    return build_dataset(
        dataset_name,
        names,
        range(1, len(names) + 1),
        ImageList(
            ids=range(len(images)),
            paths=[image.path for image in images],
            sizes=np.array([image.size for image in images], np.int64).reshape(-1, 2),
        ),
        ObjectList(
            images=np.array([index for index, _ in items], np.int64),
            boxes=np.array([item.box for _, item in items], np.float64).reshape(-1, 4),
            labels=np.array([label_of[item.name] for _, item in items], np.int64),
            ignore=np.array([item.difficult for _, item in items], np.bool_),
            areas=np.full(len(items), np.nan),
        ),
    )


class _Folder:
    """A VOC folder: the locations of its annotations and images."""

    def __init__(self, root: Path) -> None:
        self.annotations = root / "Annotations"
        self.images = root / "JPEGImages"
        for folder in (self.annotations, self.images):
            if not folder.is_dir():
                raise PointDetError(
                    f"{folder} does not exist; a VOC folder has ImageSets, Annotations and JPEGImages"
                )
        self.names = set(os.listdir(self.images))

    def image(self, stem: str, filename: str | None) -> str:
        """Path of the image named like the XML file, as in the VOC devkit, or else of `filename`."""
        candidates = (stem + extension for extension in ANY_CASE)
        found = next((name for name in candidates if name in self.names), None)
        if found is None:
            found = filename if filename in self.names and filename is not None else stem + EXTENSIONS[0]
        return str(self.images / found)


def _read_list(path: Path) -> list[tuple[Path, str]]:
    """(VOC folder, image name without extension) of every line. A second column of -1, 0 or 1 is ignored."""
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    except OSError as error:
        raise PointDetError(
            f"cannot read the image set {path}: {error.strerror}; check the dataset section"
        ) from None
    entries = []
    for line in lines:
        stem, _, flag = line.strip().rpartition(" ")
        if stem == "" or flag not in ("-1", "0", "1"):
            stem = line
        if stem.strip():
            entries.append((path.parent.parent.parent, stem.strip()))
    if not entries:
        raise PointDetError(f"the image set {path} is empty; give a list of image names")
    return entries


def _duplicates(entries: list[tuple[Path, str]]) -> list[str]:
    seen: set[tuple[Path, str]] = set()
    duplicates = []
    for entry in entries:
        if entry in seen:
            duplicates.append(entry[1])
        seen.add(entry)
    return duplicates


def _check_names(names: list[str], found: list[str], split: SplitConfig, selection: bool) -> None:
    lists = ", ".join(split.annotations)
    others = [name for name in found if name not in names]
    if others and not selection:
        near = difflib.get_close_matches(others[0], names, n=1, cutoff=0.0)[0]
        raise PointDetError(
            f"{lists}: the class {others[0]!r} is not one of the {len(names)} trained classes "
            f"(nearest: {near!r}); correct the annotations, or list all classes in dataset.class_names"
        )
    for name in names:
        similar = difflib.get_close_matches(name, others, n=1, cutoff=SIMILARITY) if name not in found else []
        if similar:
            raise PointDetError(
                f"{lists}: there is no class {name!r}, but there is {similar[0]!r}; "
                "correct dataset.class_names"
            )


def _read_xml(folder: _Folder, stem: str) -> _Image:
    path = folder.annotations / f"{stem}.xml"
    try:
        root = ElementTree.fromstring(_without_entities(path))
        size = (_size(root, "height"), _size(root, "width"))
        objects = [_object(item) for item in root.iterfind("object")]
    except OSError as error:
        raise PointDetError(
            f"cannot read the annotation {path}: {error.strerror}; add it or correct the image set"
        ) from None
    # LookupError: an unknown encoding.
    except (ElementTree.ParseError, ValueError, OverflowError, LookupError) as error:
        raise PointDetError(f"{path} is not a VOC annotation: {error}; correct or replace it") from None
    filename = root.findtext("filename")
    return _Image(folder.image(stem, filename.strip() if filename else None), size, objects)


def _without_entities(path: Path) -> bytes:
    """The content of an annotation. Errors: ValueError if it is too long or declares entities."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES >> 20} MiB")
    if b"<!ENTITY" in content.replace(b"\0", b""):  # UTF-16 has zeros between the letters
        raise ValueError("it declares entities")
    return content


def _size(root: ElementTree.Element, side: str) -> int:
    sizes = root.find("size")
    size = float((None if sizes is None else sizes.findtext(side)) or 0)
    if not abs(size) < MAX_SIDE:
        raise ValueError(f"its {side} is {size:g} pixels")
    return int(size)


def _object(item: ElementTree.Element) -> _Object:
    # Direct children only: the parts of a person have boxes too.
    name = (item.findtext("name") or "").strip()
    if not name:
        raise ValueError("an object has no name")
    box_item = item.find("bndbox")  # not findtext("bndbox/xmin"): paths take half of the time
    texts = [None if box_item is None else box_item.findtext(corner) for corner in CORNERS]
    if None in texts:
        raise ValueError(f"an object {name!r} has an incomplete bndbox")
    box = tuple(float(text or "nan") - 1.0 for text in texts)
    return _Object(name, box, (item.findtext("difficult") or "0").strip() == "1")
