# SPDX-License-Identifier: Apache-2.0
"""COCO instances JSON files -> Dataset.

Ids are whole numbers below 2^63 and sides of images below 2^31, as the programs that use them require.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Literal

import numpy as np

from pointdet.arrays import BoolArray, Float64Array, Int64Array
from pointdet.config.schema import SplitConfig
from pointdet.data.coco_file import (
    CategoryEntry,
    ImageEntry,
    Number,
    ObjectEntry,
    read_file,
    refusal,
)
from pointdet.data.joined import join
from pointdet.data.records import MAX_NAMED, ImageList, ObjectList, build_dataset, warn
from pointdet.errors import PointDetError
from pointdet.structures import Dataset

MAX_SIDE = 2**31
MAX_AREA = 1e30  # pixels^2; above it, float32 overflows
# The values of iscrowd. Some tools write them as text, and the text "0" must not count as true.
CROWD = {0: False, 1: True, "0": False, "1": True, None: False}
SPECIAL = frozenset(("", ".", ".."))  # file names that pathlib joins in another way than with a slash


def read_coco(
    dataset_name: str, data_dir: Path, split: SplitConfig, class_names: Sequence[str] | None
) -> Dataset:
    """Read the annotation files of a split and join them in their order.

    Labels are in the order of the category ids of the first file, or of `class_names` if given. In the second case,
    objects of all other classes are left out, with a warning. Crowd objects are marked `ignore`.

    Errors: PointDetError if a file is missing, is not a COCO instances file, or is inconsistent, or if the files
    have different classes and `class_names` is not given.
    """
    folders = split.images or ()
    if len(folders) not in (1, len(split.annotations)):
        raise PointDetError(
            f"a COCO split needs the key `images`, the folder of its images, or one folder for each annotation file "
            f"(given: {', '.join(split.annotations)}; images: {', '.join(folders) or None})"
        )
    chosen: list[str] = list(class_names or ())
    category_ids: list[int] = []
    parts = []
    for number, file in enumerate(split.annotations):
        path, folder = data_dir / file, data_dir / folders[number % len(folders)]
        content = read_file(path)
        images = _images(path, folder, content.images)
        ids, names = _categories(path, content.categories)
        chosen = chosen or names
        if class_names is None:
            _require_same_classes(path, names, split.annotations[0], chosen)
        id_of = dict(zip(names, ids, strict=True))
        _require_classes(path, id_of, chosen)
        category_ids = category_ids or [id_of[name] for name in chosen]
        label_of = {name: label for label, name in enumerate(chosen)}
        labels = np.array([label_of.get(name, -1) for name in names], np.int64)
        objects = _objects(path, content.annotations, images, np.array(ids, np.int64), labels)
        parts.append((path, images, objects))
    return build_dataset(dataset_name, chosen, category_ids, *join(parts))


def _require_same_classes(path: Path, names: Collection[str], first: str, chosen: Sequence[str]) -> None:
    if odd := set(names) ^ set(chosen):
        raise PointDetError(
            f"{path} has other classes than {first} (only in one of them: {min(odd)!r}); "
            "make them equal, or choose the classes with dataset.class_names"
        )


def _require_classes(path: Path, names: Collection[str], chosen: Sequence[str]) -> None:
    for name in chosen:
        if name not in names:
            near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.0)[0]
            raise PointDetError(
                f"{path} has no class {name!r}; the nearest is {near!r}; correct dataset.class_names"
            )


def _images(path: Path, folder: Path, entries: list[ImageEntry]) -> ImageList:
    position: dict[int, int] = {}
    paths: list[str] = []
    kept: list[int] = []  # their entries
    duplicates: list[str] = []
    start = f"{folder}/"
    for number, entry in enumerate(entries):
        name = str(entry.file_name)
        file = str(folder / name) if "/" in name or name in SPECIAL else start + name  # pathlib is slow
        first = position.setdefault(entry.id, len(paths))
        if first < len(paths):
            if paths[first] != file:
                raise PointDetError(
                    f"{path}: image id {entry.id} belongs to both {paths[first]} and {file}; make ids unique"
                )
            duplicates.append(file)
            continue
        paths.append(file)
        kept.append(number)
    warn(
        len(duplicates), f"images of {path} are listed more than once with the same id: kept once", duplicates
    )
    return ImageList(list(position), paths, _sizes(path, entries, kept))


def _sizes(path: Path, entries: list[ImageEntry], kept: list[int]) -> Int64Array:
    """(N, 2): height and width of the images; 0 if the file has no size, or one that is not positive."""
    sides = [(entries[number].height or 0, entries[number].width or 0) for number in kept]
    try:
        sizes = np.asarray(sides, np.float64)
    except ValueError:  # text that is no number
        number, side = next((n, s) for n, s in zip(kept, sides, strict=True) if not _are_numbers(s))
        key = "width" if _are_numbers(side[:1]) else "height"
        raise refusal(path, "images", number, key, side) from None
    sizes = np.where(np.isnan(sizes), 0, sizes)
    too_large = np.flatnonzero((np.abs(sizes) >= MAX_SIDE).any(axis=1))
    if len(too_large):
        height, width = sizes[too_large[0]]
        raise PointDetError(
            f"{path}: the size of image {kept[too_large[0]]} is {height:g} x {width:g} pixels; export the file again"
        )
    return sizes.astype(np.int64)


def _categories(path: Path, entries: list[CategoryEntry]) -> tuple[list[int], list[str]]:
    """Category ids in ascending order, and their names."""
    for number, entry in enumerate(entries):
        if entry.name == "":
            raise refusal(path, "categories", number, "name", entry.name)
    columns = sorted(
        (entry.id, str(entry.name)) for entry in entries
    )  # a number is a name too: the digits 0 to 9
    ids, names = [number for number, _ in columns], [name for _, name in columns]
    for what, counts in (("category id", Counter[object](ids)), ("class name", Counter[object](names))):
        twice = next((value for value, count in counts.items() if count > 1), None)
        if twice is not None:
            raise PointDetError(f"{path}: the {what} {twice!r} occurs twice; make it unique")
    return ids, names


def _objects(
    path: Path, entries: list[ObjectEntry], images: ImageList, ids: Int64Array, labels: Int64Array
) -> ObjectList:
    """The objects. `labels`: label of each category id in `ids`; -1: leave its objects out."""
    # Column by column, for speed: COCO's own file has 860,000 entries.
    at = _positions([entry.image_id for entry in entries], np.array(images.ids, np.int64))
    orphans = np.flatnonzero(at < 0)
    warn(
        len(orphans),
        f"objects of {path} are left out because the file does not list their images",
        [f"image id {entries[index].image_id}" for index in orphans],
    )
    categories = _positions([entry.category_id for entry in entries], ids)
    unknown = np.flatnonzero(categories < 0)
    if len(unknown):
        raise PointDetError(
            f"{path}: an object has category_id {entries[unknown[0]].category_id}, which is not in 'categories'; "
            "add it there"
        )
    label = labels[categories]
    corner_and_size = _numbers(path, entries, "bbox")
    areas = _numbers(path, entries, "area")
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


def _positions(values: list[int], ids: Int64Array) -> Int64Array:
    """(N,): where each value is in `ids`; -1: nowhere."""
    wanted, order = np.array(values, np.int64), np.argsort(ids)
    found = order[np.searchsorted(ids[order], wanted) % len(ids)]
    return np.where(ids[found] == wanted, found, -1)


def _numbers(path: Path, entries: list[ObjectEntry], key: Literal["bbox", "area"]) -> Float64Array:
    """(N, 4) or (N,): the values of a key; null becomes NaN, and text that is a number becomes that number."""
    values = list(map(attrgetter(key), entries))
    try:
        return np.asarray(values, np.float64)
    except ValueError:
        number, value = next(
            (n, v) for n, v in enumerate(values) if not _are_numbers(v if key == "bbox" else (v,))
        )
        shown = list(value) if isinstance(value, tuple) else value
        raise refusal(path, "annotations", number, key, shown) from None


def _are_numbers(values: Sequence[Number | float]) -> bool:
    try:
        np.asarray(values, np.float64)
    except ValueError:
        return False
    return True


def _crowd(path: Path, entries: list[ObjectEntry]) -> BoolArray:
    """Whether each object is a crowd."""
    try:
        return np.array([CROWD[entry.iscrowd] for entry in entries], np.bool_)
    except KeyError:
        number, value = next(
            (n, entry.iscrowd) for n, entry in enumerate(entries) if entry.iscrowd not in CROWD
        )
        raise refusal(path, "annotations", number, "iscrowd", value) from None
