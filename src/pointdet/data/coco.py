# SPDX-License-Identifier: Apache-2.0
"""COCO instances JSON file -> Dataset."""

from __future__ import annotations

import difflib
import gc
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pointdet.arrays import Float64Array
from pointdet.config.schema import SplitConfig
from pointdet.data.records import ImageList, ObjectList, build_dataset, warn
from pointdet.errors import PointDetError
from pointdet.structures import Dataset

Entries = list[dict[str, Any]]


def read_coco(
    dataset_name: str, data_dir: Path, split: SplitConfig, class_names: Sequence[str] | None
) -> Dataset:
    """Read one annotation file.

    Labels are in the order of the category ids, or of `class_names` if given. In the second case, objects of
    all other classes are left out, with a warning. Crowd objects are marked `ignore`.

    Errors: PointDetError if the file is missing, is not a COCO instances file, or is inconsistent.
    """
    if len(split.annotations) != 1 or split.images is None:
        raise PointDetError(
            f"a COCO split needs one annotation file and the key `images`, the folder of its images "
            f"(given: {', '.join(split.annotations)}; images: {split.images})"
        )
    path = data_dir / split.annotations[0]
    content = _load(path)
    images, position = _images(path, data_dir / split.images, content["images"])
    ids, names = _categories(path, content["categories"])
    chosen = names if class_names is None else list(class_names)
    for name in chosen:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
            raise PointDetError(
                f"{path} has no class {name!r}; the nearest is {near!r}; correct dataset.class_names"
            )
    labels = [chosen.index(name) if name in chosen else -1 for name in names]
    objects = _objects(path, content["annotations"], images, position, ids, labels)
    return build_dataset(dataset_name, chosen, [ids[names.index(name)] for name in chosen], images, objects)


def _load(path: Path) -> dict[str, Entries]:
    gc.disable()  # garbage collection scans all lists repeatedly: parsing takes three times as long
    try:
        with path.open(encoding="utf-8-sig") as file:
            content: Any = json.load(file)
    except OSError as error:
        raise PointDetError(
            f"cannot read the annotations {path}: {error.strerror}; check the dataset section"
        ) from None
    except ValueError as error:
        raise PointDetError(f"{path} is not valid JSON: {error}; download or export it again") from None
    finally:
        gc.enable()
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise PointDetError(
                f"{path} has no list {key!r}; give a COCO instances file with annotated objects"
            )
        if not content[key]:
            raise PointDetError(
                f"the list {key!r} of {path} is empty; give a COCO instances file with annotated objects"
            )
    return dict(content)


def _column(path: Path, entries: Entries, what: str, key: str) -> list[Any]:
    """The value of `key` of every entry. `what`: name of the list in the file."""
    try:
        return [entry[key] for entry in entries]
    except (KeyError, TypeError, IndexError):
        number = next(n for n, entry in enumerate(entries) if not isinstance(entry, dict) or key not in entry)
        raise PointDetError(
            f"{path}: entry {number} of {what!r} has no {key!r}; export the file again"
        ) from None


def _numbers(path: Path, values: list[Any], what: str, columns: int = 1) -> Float64Array:
    """(N, columns): the values of one key as numbers; null becomes NaN."""
    try:
        return np.asarray(values, np.float64).reshape(len(values), columns)
    except (ValueError, TypeError):
        for number, value in enumerate(values):
            try:
                np.asarray(value, np.float64).reshape(columns)
            except (ValueError, TypeError):
                raise PointDetError(
                    f"{path}: {what} {number} is {value!r} instead of {columns} number(s); "
                    "export the file again"
                ) from None
        raise


def _images(path: Path, folder: Path, entries: Entries) -> tuple[ImageList, dict[Any, int]]:
    """The images, and the index of each image id in their list."""
    position: dict[Any, int] = {}
    paths: list[str] = []
    sizes = []
    duplicates: list[str] = []
    names = _column(path, entries, "images", "file_name")
    for entry, image_id, name in zip(entries, _column(path, entries, "images", "id"), names, strict=True):
        file = str(folder / str(name))
        first = position.setdefault(image_id, len(paths))
        if first < len(paths):
            if paths[first] != file:
                raise PointDetError(
                    f"{path}: image id {image_id} belongs to both {paths[first]} and {file}; make ids unique"
                )
            duplicates.append(file)
            continue
        paths.append(file)
        sizes.append((entry.get("height") or 0, entry.get("width") or 0))
    warn(
        len(duplicates), f"images of {path} are listed more than once with the same id: kept once", duplicates
    )
    return ImageList(
        list(position), paths, _numbers(path, sizes, "size of image", 2).astype(np.int64)
    ), position


def _categories(path: Path, entries: Entries) -> tuple[list[int], list[str]]:
    """Category ids in ascending order, and their names."""
    columns = zip(
        _column(path, entries, "categories", "id"), _column(path, entries, "categories", "name"), strict=True
    )
    ids, names = map(list, zip(*sorted(columns), strict=True))
    for values, what in ((ids, "category id"), (names, "class name")):
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise PointDetError(f"{path}: the {what} {twice!r} occurs twice; make it unique")
    return ids, names


def _objects(
    path: Path,
    entries: Entries,
    images: ImageList,
    position: dict[Any, int],
    ids: list[int],
    labels: list[int],
) -> ObjectList:
    """The objects. `labels`: label of each category id in `ids`; -1: leave its objects out."""
    # Column by column, for speed: COCO's own file has 860,000 entries.
    image_ids = _column(path, entries, "annotations", "image_id")
    at = np.array([position.get(image_id, -1) for image_id in image_ids], np.int64)
    orphans = np.flatnonzero(at < 0)
    warn(
        len(orphans),
        f"objects of {path} are left out because the file does not list their images",
        [f"image id {image_ids[index]}" for index in orphans],
    )
    label_of: dict[Any, int] = dict(zip(ids, labels, strict=True))
    categories = _column(path, entries, "annotations", "category_id")
    unknown = next((category for category in categories if category not in label_of), None)
    if unknown is not None:
        raise PointDetError(
            f"{path}: an object has category_id {unknown}, which is not in 'categories'; add it there"
        )
    label = np.array([label_of[category] for category in categories], np.int64)
    corner_and_size = _numbers(path, _column(path, entries, "annotations", "bbox"), "bbox of object", 4)
    areas = _numbers(path, [entry.get("area") for entry in entries], "area of object")[:, 0]
    objects = ObjectList(
        images=at,
        boxes=np.concatenate(
            [corner_and_size[:, :2], corner_and_size[:, :2] + corner_and_size[:, 2:]], axis=1
        ),
        labels=label,
        ignore=np.array([bool(entry.get("iscrowd", 0)) for entry in entries], np.bool_),
        areas=areas,
    )
    others = np.flatnonzero((label < 0) & (at >= 0))
    warn(
        len(others),
        "objects of classes that are not in the class names are left out",
        [images.paths[index] for index in at[others]],
    )
    return objects[(at >= 0) & (label >= 0)]
