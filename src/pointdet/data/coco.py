# SPDX-License-Identifier: Apache-2.0
"""COCO instances JSON file -> Dataset.

Ids are whole numbers below 2^63 and sides of images below 2^31, as the programs that use them require.
"""

from __future__ import annotations

import difflib
import gc
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pointdet.arrays import BoolArray, Float64Array, Int64Array
from pointdet.config.schema import SplitConfig
from pointdet.data.records import MAX_NAMED, ImageList, ObjectList, build_dataset, warn
from pointdet.errors import PointDetError
from pointdet.structures import Dataset

Entries = list[dict[str, Any]]

MAX_ID, MAX_SIDE = 2**63, 2**31
MAX_AREA = 1e30  # pixels^2; above it, float32 overflows
# The values of iscrowd. Some tools write them as text, and the text "0" must not count as true.
CROWD = {0: False, 1: True, "0": False, "1": True, None: False}


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
    id_of = dict(zip(names, ids, strict=True))
    chosen = names if class_names is None else list(class_names)
    for name in chosen:
        if name not in id_of:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
            raise PointDetError(
                f"{path} has no class {name!r}; the nearest is {near!r}; correct dataset.class_names"
            )
    label_of = {name: label for label, name in enumerate(chosen)}
    labels = [label_of.get(name, -1) for name in names]
    objects = _objects(path, content["annotations"], images, position, ids, labels)
    return build_dataset(dataset_name, chosen, [id_of[name] for name in chosen], images, objects)


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
    except RecursionError:
        raise PointDetError(f"{path} is nested too deeply for a COCO file; export it again") from None
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


def _ids(path: Path, entries: Entries, what: str, key: str) -> list[int]:
    """As `_column`, for ids. Errors: PointDetError for an id that is not a whole number."""
    ids = _column(path, entries, what, key)
    if set(map(type, ids)) <= {int} and min(ids) > -MAX_ID and max(ids) < MAX_ID:
        return ids
    number, value = next((n, v) for n, v in enumerate(ids) if type(v) is not int or abs(v) >= MAX_ID)
    raise PointDetError(
        f"{path}: {key!r} of entry {number} of {what!r} is {_shown(value)} instead of a whole number; "
        "number the entries in the program that exported the file"
    )


def _shown(value: object) -> str:
    """The value for a message, shortened. A number can have more digits than Python prints."""
    return "a very long number" if type(value) is int and abs(value) >= MAX_ID else repr(value)[:80]


def _numbers(path: Path, values: list[Any], what: str, columns: int = 1) -> Float64Array:
    """(N, columns): the values of one key as numbers; null becomes NaN."""
    try:
        return np.asarray(values, np.float64).reshape(len(values), columns)
    except (ValueError, TypeError, OverflowError):
        for number, value in enumerate(values):
            try:
                np.asarray(value, np.float64).reshape(columns)
            except (ValueError, TypeError, OverflowError):
                raise PointDetError(
                    f"{path}: {what} {number} is {_shown(value)} instead of {columns} number(s); "
                    "export the file again"
                ) from None
        raise


def _sizes(path: Path, entries: Entries) -> Int64Array:
    """(N, 2): height and width of the images; 0 if the file has no size, or one that is not positive."""
    sizes = _numbers(path, [(e.get("height") or 0, e.get("width") or 0) for e in entries], "size of image", 2)
    sizes = np.where(np.isnan(sizes), 0, sizes)
    too_large = np.flatnonzero((np.abs(sizes) >= MAX_SIDE).any(axis=1))
    if len(too_large):
        height, width = sizes[too_large[0]]
        raise PointDetError(
            f"{path}: the size of image {too_large[0]} is {height:g} x {width:g} pixels; export the file again"
        )
    return sizes.astype(np.int64)


def _images(path: Path, folder: Path, entries: Entries) -> tuple[ImageList, dict[int, int]]:
    """The images, and the index of each image id in their list."""
    position: dict[int, int] = {}
    paths: list[str] = []
    kept: Entries = []
    duplicates: list[str] = []
    names = _column(path, entries, "images", "file_name")
    for entry, image_id, name in zip(entries, _ids(path, entries, "images", "id"), names, strict=True):
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
        kept.append(entry)
    warn(
        len(duplicates), f"images of {path} are listed more than once with the same id: kept once", duplicates
    )
    return ImageList(list(position), paths, _sizes(path, kept)), position


def _categories(path: Path, entries: Entries) -> tuple[list[int], list[str]]:
    """Category ids in ascending order, and their names."""
    # A number is a name too: the digits 0 to 9.
    texts = [
        str(n) if type(n) is int and abs(n) < MAX_ID else n
        for n in _column(path, entries, "categories", "name")
    ]
    nameless = next(
        (number for number, name in enumerate(texts) if not (isinstance(name, str) and name)), None
    )
    if nameless is not None:
        raise PointDetError(
            f"{path}: the name of entry {nameless} of 'categories' is {_shown(texts[nameless])}; give it a name"
        )
    columns = sorted(zip(_ids(path, entries, "categories", "id"), texts, strict=True))
    ids, names = [number for number, _ in columns], [name for _, name in columns]
    for what, counts in (("category id", Counter[object](ids)), ("class name", Counter[object](names))):
        twice = next((value for value, count in counts.items() if count > 1), None)
        if twice is not None:
            raise PointDetError(f"{path}: the {what} {twice!r} occurs twice; make it unique")
    return ids, names


def _crowd(path: Path, entries: Entries) -> BoolArray:
    """Whether each object is a crowd."""
    try:
        return np.array([CROWD[entry.get("iscrowd", 0)] for entry in entries], np.bool_)
    except (KeyError, TypeError):
        values = enumerate(entry.get("iscrowd", 0) for entry in entries)
        number, value = next(
            (n, v) for n, v in values if not (isinstance(v, int | float | str) and v in CROWD)
        )
        raise PointDetError(
            f"{path}: iscrowd of object {number} is {_shown(value)} instead of 0 or 1; export the file again"
        ) from None


def _objects(
    path: Path,
    entries: Entries,
    images: ImageList,
    position: dict[int, int],
    ids: list[int],
    labels: list[int],
) -> ObjectList:
    """The objects. `labels`: label of each category id in `ids`; -1: leave its objects out."""
    # Column by column, for speed: COCO's own file has 860,000 entries.
    image_ids = _ids(path, entries, "annotations", "image_id")
    at = np.array([position.get(image_id, -1) for image_id in image_ids], np.int64)
    orphans = np.flatnonzero(at < 0)
    warn(
        len(orphans),
        f"objects of {path} are left out because the file does not list their images",
        [f"image id {image_ids[index]}" for index in orphans],
    )
    label_of: dict[int, int] = dict(zip(ids, labels, strict=True))
    categories = _ids(path, entries, "annotations", "category_id")
    unknown = next((category for category in categories if category not in label_of), None)
    if unknown is not None:
        raise PointDetError(
            f"{path}: an object has category_id {unknown}, which is not in 'categories'; add it there"
        )
    label = np.array([label_of[category] for category in categories], np.int64)
    corner_and_size = _numbers(path, _column(path, entries, "annotations", "bbox"), "bbox of object", 4)
    areas = _numbers(path, [entry.get("area") for entry in entries], "area of object")[:, 0]
    excessive = np.abs(areas) > MAX_AREA  # False for NaN
    warn(
        int(excessive.sum()),
        f"areas of {path} are not possible: the areas of the boxes are used",
        [f"object {number}" for number in np.flatnonzero(excessive)[:MAX_NAMED]],
    )
    with np.errstate(over="ignore", invalid="ignore"):  # boxes that are not finite are left out later
        far_corners = corner_and_size[:, :2] + corner_and_size[:, 2:]
    objects = ObjectList(
        images=at,
        boxes=np.concatenate([corner_and_size[:, :2], far_corners], axis=1),
        labels=label,
        ignore=_crowd(path, entries),
        areas=np.where(excessive, np.nan, areas),
    )
    others = np.flatnonzero((label < 0) & (at >= 0))
    warn(
        len(others),
        "objects of classes that are not in the class names are left out",
        [images.paths[index] for index in at[others]],
    )
    return objects[(at >= 0) & (label >= 0)]
