# SPDX-License-Identifier: Apache-2.0
"""Writes datasets with as many entries as the published ones, for measurements of reading. The same seed gives the
same bytes.

An instances file has what those of COCO 2017 have: URLs and dates of the images, polygons of the objects, run lengths
of the crowds. All images of a dataset are links to a few drawn pictures.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from pointdet.data.shapes import draw_picture

HEIGHT, WIDTH = 480, 640
PICTURES = 32
CLASSES = 80
# Category ids have gaps, as in COCO.
CATEGORY_IDS = [number for number in range(1, 91) if number not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
OUTLINES = 4096  # different polygons
CROWDS = 0.012  # share of the objects
ENTRIES_AT_ONCE = 10_000


def write_coco(folder: Path, images: int, objects: int, seed: int = 0) -> Path:
    """Write folder/train2017/ with the images and folder/annotations/instances_train2017.json. Returns that file."""
    rng = np.random.default_rng(seed)
    names = [f"{number:012d}.jpg" for number in np.sort(rng.choice(581_929, images, replace=False)).tolist()]
    link_pictures(folder / "train2017", names)
    path = folder / "annotations" / "instances_train2017.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    categories = [{"supercategory": "thing", "id": n, "name": f"class {n}"} for n in CATEGORY_IDS]
    with path.open("w", encoding="ascii") as file:
        file.write(
            '{"info": {"description": "written by benchmarks/large_files.py"}, "licenses": [], "images": ['
        )
        file.writelines(_joined(map(_image, names)))
        file.write('], "annotations": [')
        file.writelines(_joined(_objects(rng, np.array([int(name[:12]) for name in names]), objects)))
        file.write(f'], "categories": {json.dumps(categories)}}}')
    return path


def write_voc(folder: Path, images: int, seed: int = 0) -> str:
    """Write a VOC folder with 3 objects in each image. Returns the path of its image set, relative to `folder`."""
    rng = np.random.default_rng(seed)
    root = folder / "VOC2012"
    for name in ("Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True, exist_ok=True)
    stems = [f"2012_{number:06d}" for number in range(images)]
    link_pictures(root / "JPEGImages", [f"{stem}.jpg" for stem in stems])
    for stem in stems:
        (root / "Annotations" / f"{stem}.xml").write_text(_voc_annotation(stem, rng), encoding="ascii")
    (root / "ImageSets" / "Main" / "train.txt").write_text("\n".join(stems) + "\n", encoding="ascii")
    return "VOC2012/ImageSets/Main/train.txt"


def link_pictures(folder: Path, names: list[str]) -> None:
    """Draw a few pictures of HEIGHT x WIDTH pixels, and link every name to one of them."""
    pictures = folder.parent / "pictures"
    for each in (pictures, folder):
        each.mkdir(parents=True, exist_ok=True)
    for number in range(PICTURES):
        picture = draw_picture(np.random.default_rng(number), HEIGHT, WIDTH)[0]
        cv2.imwrite(str(pictures / f"{number}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
    for number, name in enumerate(names):
        os.link(pictures / f"{number % PICTURES}.jpg", folder / name)


def _joined(entries: Iterator[str]) -> Iterator[str]:
    """The entries with commas between them."""
    separator = ""
    for entry in entries:
        yield separator + entry
        separator = ", "


def _image(name: str) -> str:
    url = f"http://images.example/train2017/{name}"
    return (
        f'{{"license": 3, "file_name": "{name}", "coco_url": "{url}", "height": {HEIGHT}, "width": {WIDTH}, '
        f'"date_captured": "2013-11-14 11:18:45", "flickr_url": "{url}", "id": {int(name[:12])}}}'
    )


def _objects(rng: np.random.Generator, image_ids: np.ndarray, count: int) -> Iterator[str]:
    """The entries of `annotations`, in random order of their images, as in COCO."""
    outlines = [_outline(rng) for _ in range(OUTLINES)]
    for first in range(0, count, ENTRIES_AT_ONCE):
        many = min(ENTRIES_AT_ONCE, count - first)
        corners = rng.uniform(0, 0.7, (many, 2)) * (WIDTH, HEIGHT)
        sides = np.minimum(rng.lognormal(3.8, 1.0, (many, 2)), (0.29 * WIDTH, 0.29 * HEIGHT)) + 1
        boxes = np.concatenate([corners, sides], axis=1).round(2).tolist()
        areas = (sides.prod(axis=1) * rng.uniform(0.4, 0.9, many)).round(4).tolist()
        images = rng.choice(image_ids, many).tolist()
        categories = rng.choice(CATEGORY_IDS, many).tolist()
        shapes = rng.integers(OUTLINES, size=many).tolist()
        crowds = (rng.random(many) < CROWDS).astype(int).tolist()
        rows = zip(images, categories, boxes, areas, shapes, crowds, strict=True)
        for number, (image, category, box, area, shape, crowd) in enumerate(rows, start=first + 1):
            outline = (
                f'{{"counts": [{number}, 12, 468, 17], "size": [{HEIGHT}, {WIDTH}]}}'
                if crowd
                else outlines[shape]
            )
            yield (
                f'{{"segmentation": {outline}, "area": {area}, "iscrowd": {crowd}, "image_id": {image}, '
                f'"bbox": {box}, "category_id": {category}, "id": {number}}}'
            )


def _outline(rng: np.random.Generator) -> str:
    """One polygon, or two for an object in two parts. On average as long as those of COCO."""
    parts = [
        (rng.uniform(0, 0.99, (max(3, int(rng.lognormal(2.78, 0.75))), 2)) * (WIDTH, HEIGHT)).round(2).ravel()
        for _ in range(1 + int(rng.random() < 0.15))
    ]
    return json.dumps([part.tolist() for part in parts])


def _voc_annotation(stem: str, rng: np.random.Generator) -> str:
    lines = [
        "<annotation>\n\t<folder>VOC2012</folder>",
        f"\t<filename>{stem}.jpg</filename>\n\t<source><database>benchmark</database></source>",
        f"\t<size>\n\t\t<width>{WIDTH}</width>\n\t\t<height>{HEIGHT}</height>\n\t\t<depth>3</depth>\n\t</size>",
        "\t<segmented>0</segmented>",
    ]
    for x, y, width, height in rng.integers(10, 200, (3, 4)).tolist():
        lines.append(
            f"\t<object>\n\t\t<name>class {x % 20}</name>\n\t\t<pose>Unspecified</pose>\n\t\t<truncated>0</truncated>\n"
            f"\t\t<difficult>{int(x < 20)}</difficult>\n\t\t<bndbox>\n\t\t\t<xmin>{x}</xmin>\n\t\t\t<ymin>{y}</ymin>\n"
            f"\t\t\t<xmax>{x + width}</xmax>\n\t\t\t<ymax>{y + height}</ymax>\n\t\t</bndbox>\n\t</object>"
        )
    return "\n".join([*lines, "</annotation>\n"])
