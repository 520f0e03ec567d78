# SPDX-License-Identifier: Apache-2.0
"""Valid and invalid COCO files."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pointdet.config import schema
from pointdet.data.catalogue import read_dataset
from pointdet.errors import PointDetError

Write = Callable[..., schema.DatasetConfig]


def item(image: int, category: int, *bbox: float, **more: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": list(bbox), "area": 11.0, "iscrowd": 0} | more


def test_boxes_labels_crowds_and_areas(coco: Write) -> None:
    config = coco(
        [item(9, 5, 1, 2, 10, 20), item(7, 2, 3.5, 4, 5, 6, iscrowd=1, area=7.5), item(9, 2, 0, 0, 60, 40)]
    )
    dataset = read_dataset(config, "train")
    assert dataset.name == "toy_train"
    assert dataset.class_names == ("cat", "dog")
    assert dataset.category_ids == (2, 5)
    first, second = dataset.records
    assert (first.image_id, first.height, first.width) == (7, 40, 60)
    assert first.image_path.endswith("train/a.jpg")
    np.testing.assert_array_equal(first.annotation.boxes, [[3.5, 4, 8.5, 10]])
    np.testing.assert_array_equal(first.annotation.ignore, [True])
    np.testing.assert_array_equal(first.annotation.areas, [7.5])
    np.testing.assert_array_equal(second.annotation.boxes, [[1, 2, 11, 22], [0, 0, 60, 40]])
    np.testing.assert_array_equal(second.annotation.labels, [1, 0])
    assert second.annotation.boxes.dtype == np.float32
    assert second.annotation.labels.dtype == np.int64


def test_images_without_objects_are_kept(coco: Write) -> None:
    dataset = read_dataset(coco([item(9, 5, 1, 2, 10, 20)]), "train")
    assert [len(record.annotation) for record in dataset.records] == [0, 1]
    assert dataset.records[0].annotation.boxes.shape == (0, 4)


def test_class_names_select_and_order_the_classes(coco: Write, caplog: pytest.LogCaptureFixture) -> None:
    objects = [item(7, 5, 1, 2, 10, 20), item(7, 2, 1, 2, 10, 20), item(9, 5, 1, 2, 10, 20)]
    dataset = read_dataset(coco(objects, class_names=["dog"]), "train")
    assert (dataset.class_names, dataset.category_ids) == (("dog",), (5,))
    assert [record.annotation.labels.tolist() for record in dataset.records] == [[0], [0]]
    assert "1 objects of classes that are not in the class names" in caplog.text
    dataset = read_dataset(coco(objects, class_names=["dog", "cat"]), "train")
    assert dataset.category_ids == (5, 2)
    assert dataset.records[0].annotation.labels.tolist() == [0, 1]


def test_unknown_class_names_the_nearest(coco: Write) -> None:
    with pytest.raises(PointDetError, match=r"has no class 'dogs'; the nearest is 'dog'"):
        read_dataset(coco([item(7, 5, 1, 2, 10, 20)], class_names=["dogs"]), "train")


@pytest.mark.parametrize(
    ("bbox", "expected", "warning"),
    [
        ((1, 2, 0, 20), None, "1 boxes without area are left out (first: "),
        ((1, 2, 10, -3), None, "1 boxes without area"),
        ((1, float("nan"), 10, 3), None, "1 boxes without area"),
        ((61, 2, 10, 20), None, "1 boxes outside their image are left out"),
        ((-30, 2, 30, 20), None, "1 boxes outside their image are left out"),
        ((-5, 2, 10, 50), (0, 2, 5, 40), "1 boxes extend beyond their image and are clipped"),
        ((50, 30, 10.4, 10.9), (50, 30, 60.4, 40.9), None),
    ],
)
def test_invalid_boxes(
    coco: Write,
    caplog: pytest.LogCaptureFixture,
    bbox: tuple[float, ...],
    expected: tuple[float, ...] | None,
    warning: str | None,
) -> None:
    dataset = read_dataset(coco([item(7, 5, *bbox), item(7, 5, 1, 2, 3, 4)]), "train")
    boxes = dataset.records[0].annotation.boxes
    np.testing.assert_allclose(boxes, [*([] if expected is None else [expected]), (1, 2, 4, 6)])
    assert (warning in caplog.text and "a.jpg" in caplog.text) if warning else not caplog.records


def test_missing_area_is_computed_from_the_box(coco: Write) -> None:
    objects = [item(7, 5, 1, 2, 3, 4), item(7, 5, -5, 0, 10, 10)]
    for entry in objects:
        del entry["area"]
    assert read_dataset(coco(objects), "train").records[0].annotation.areas.tolist() == [12, 50]


def test_objects_of_unknown_images_are_left_out(coco: Write, caplog: pytest.LogCaptureFixture) -> None:
    dataset = read_dataset(coco([item(7, 5, 1, 2, 3, 4), item(8, 5, 1, 2, 3, 4)]), "train")
    assert sum(len(record.annotation) for record in dataset.records) == 1
    assert "1 objects of" in caplog.text and "image id 8" in caplog.text


def test_image_listed_twice_is_kept_once(coco: Write, caplog: pytest.LogCaptureFixture) -> None:
    image = {"id": 7, "file_name": "a.jpg", "height": 40, "width": 60}
    dataset = read_dataset(coco([item(7, 5, 1, 2, 3, 4)], images=[image, image]), "train")
    assert [len(record.annotation) for record in dataset.records] == [1]
    assert "listed more than once" in caplog.text


def test_same_id_for_two_images_is_an_error(coco: Write) -> None:
    images = [{"id": 7, "file_name": name, "height": 40, "width": 60} for name in ("a.jpg", "b.jpg")]
    with pytest.raises(PointDetError, match=r"image id 7 belongs to both .*a.jpg and .*b.jpg"):
        read_dataset(coco([item(7, 5, 1, 2, 3, 4)], images=images), "train")


def test_missing_size_is_read_from_the_image(coco: Write, caplog: pytest.LogCaptureFixture) -> None:
    images = [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "b.jpg", "height": 0, "width": 60}]
    dataset = read_dataset(coco([item(7, 5, 1, 2, 3, 4)], images=images), "train")
    assert [(record.height, record.width) for record in dataset.records] == [(40, 60), (40, 60)]
    assert "2 images without a size" in caplog.text


def test_missing_images_are_an_error_with_their_number(coco: Write, tmp_path: Path) -> None:
    config = coco([item(7, 5, 1, 2, 3, 4)])
    (tmp_path / "train" / "b.jpg").unlink()
    with pytest.raises(PointDetError, match=r"1 of 2 images are not on disk \(first: .*b.jpg\)"):
        read_dataset(config, "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categories": [{"id": 2, "name": "cat"}]}, r"category_id 5, which is not in 'categories'"),
        ({"categories": [{"id": 5, "name": "a"}, {"id": 5, "name": "b"}]}, "the category id 5 occurs twice"),
        ({"categories": [{"id": 5, "name": "a"}, {"id": 6, "name": "a"}]}, "the class name 'a' occurs twice"),
        ({"categories": []}, "the list 'categories' of .* is empty"),
        ({"images": "none"}, "has no list 'images'"),
        ({"images": [{"id": 7}]}, "entry 0 of 'images' has no 'file_name'"),
        ({"annotations": [{"image_id": 7, "category_id": 5}]}, "entry 0 of 'annotations' has no 'bbox'"),
        ({"annotations": [item(7, 5, 1, 2, 3)]}, r"bbox of object 0 is \[1, 2, 3\] instead of 4 number"),
        ({"annotations": [item(7, 5, 1, 2, 3, 0)]}, "has no objects"),
    ],
)
def test_invalid_files_are_errors(coco: Write, change: dict[str, Any], message: str) -> None:
    with pytest.raises(PointDetError, match=message):
        read_dataset(coco([item(7, 5, 1, 2, 3, 4)], **change), "train")


def test_unreadable_json_is_an_error(coco: Write, tmp_path: Path) -> None:
    config = coco([item(7, 5, 1, 2, 3, 4)])
    (tmp_path / "train.json").write_text('{"images": [{"id": 1}], "categories": []}')
    with pytest.raises(PointDetError, match=r"train.json has no list 'annotations'"):
        read_dataset(config, "train")
    (tmp_path / "train.json").write_text('{"images": [')
    with pytest.raises(PointDetError, match=r"train.json is not valid JSON"):
        read_dataset(config, "train")
    (tmp_path / "train.json").unlink()
    with pytest.raises(PointDetError, match=r"cannot read the annotations .*train.json: No such file"):
        read_dataset(config, "train")


def test_unreadable_image_without_size_is_an_error(coco: Write, tmp_path: Path) -> None:
    config = coco([item(7, 5, 1, 2, 3, 4)], images=[{"id": 7, "file_name": "a.jpg"}])
    (tmp_path / "train" / "a.jpg").write_bytes(b"")
    with pytest.raises(PointDetError, match=r"a.jpg is not an image .* its annotation has no size"):
        read_dataset(config, "train")


def test_missing_size_of_a_rotated_image_is_that_after_exif(coco: Write, tmp_path: Path) -> None:
    config = coco([item(7, 5, 1, 2, 3, 4)], images=[{"id": 7, "file_name": "a.jpg"}])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "train" / "a.jpg", exif=exif)
    record = read_dataset(config, "train").records[0]
    assert (record.height, record.width) == (60, 40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": [{"id": "img-1", "file_name": "a.jpg"}]}, "'id' of entry 0 of 'images' is 'img-1' instead of a whole"),
        ({"images": [{"id": [7], "file_name": "a.jpg"}]}, r"'id' of entry 0 of 'images' is \[7\] instead of a whole"),
        ({"images": [{"id": 10**400, "file_name": "a.jpg"}]}, "'images' is a very long number instead of a whole"),
        ({"images": [{"id": 7, "file_name": "a.jpg", "height": 1e300, "width": 1}]}, r"image 0 is 1e\+300 x 1 pixels"),
        ({"images": [{"id": 7, "file_name": "a.jpg", "height": 10**400, "width": 1}]}, "size of image 0 is .10000"),
        ({"categories": [{"id": 5, "name": None}]}, "the name of entry 0 of 'categories' is None; give it a name"),
        ({"annotations": [item(7, 5, 1, 2, 3, 10**400)]}, "bbox of object 0 is .1, 2, 3, 1000"),
        ({"annotations": [{**item(7, 5, 1, 2, 3, 4), "iscrowd": "yes"}]}, "iscrowd of object 0 is 'yes' instead of 0 or 1"),
        ({"annotations": [{**item(7, 5, 1, 2, 3, 4), "iscrowd": []}]}, r"iscrowd of object 0 is \[\] instead of 0 or 1"),
        ({"annotations": [{**item(7, 5, 1, 2, 3, 4), "image_id": "7"}]}, "'image_id' of entry 0 .* is '7' instead"),
    ],
)  # fmt: skip
def test_values_of_wrong_types_are_errors(coco: Write, change: dict[str, Any], message: str) -> None:
    with pytest.raises(PointDetError, match=message):
        read_dataset(coco([item(7, 5, 1, 2, 3, 4)], **change), "train")


def test_numbers_are_class_names_and_text_may_say_iscrowd(coco: Write) -> None:
    objects = [{**item(7, 1, 1, 2, 3, 4), "iscrowd": "0"}, {**item(7, 1, 9, 2, 3, 4), "iscrowd": "1"}]
    dataset = read_dataset(coco(objects, categories=[{"id": 1, "name": 7}]), "train")
    assert dataset.class_names == ("7",)
    assert dataset.records[0].annotation.ignore.tolist() == [False, True]


def test_text_may_say_numbers(coco: Write) -> None:
    images = [{"id": 7, "file_name": "a.jpg", "height": "40", "width": ""}]
    objects = [{**item(7, 5), "bbox": ["1", 2, "3.5", "4"], "area": "9.5"}]
    record = read_dataset(coco(objects, images=images), "train").records[0]
    assert (record.height, record.width) == (40, 60)  # the width is that of the file
    np.testing.assert_array_equal(record.annotation.boxes, [[1, 2, 4.5, 6]])
    assert record.annotation.areas.tolist() == [9.5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": [item(7, 5, 1, 2, 3, 4), {**item(7, 5), "bbox": [1, "2px", 3, 4]}]}, r"json, \$.annotations\[1\].bbox: bbox of object 1 is \[1.0, '2px', 3.0, 4.0\] instead of 4"),
        ({"annotations": [{**item(7, 5, 1, 2, 3, 4), "area": "big"}]}, r"json, \$.annotations\[0\].area: area of object 0 is 'big' instead of 1"),
        ({"annotations": [{**item(7, 5, 1, 2, 3, 4), "iscrowd": 2}]}, r"json, \$.annotations\[0\].iscrowd: iscrowd of object 0 is 2 instead of 0 or 1"),
        ({"images": [{"id": 7, "file_name": "a.jpg", "height": "4", "width": "wide"}]}, r"json, \$.images\[0\].width: size of image 0 is \('4', 'wide'\) instead of 2"),
        ({"categories": [{"id": 5, "name": ""}]}, r"json, \$.categories\[0\].name: the name of entry 0 of 'categories' is ''; give it a name"),
    ],
)  # fmt: skip
def test_text_that_is_no_number_is_an_error(coco: Write, change: dict[str, Any], message: str) -> None:
    with pytest.raises(PointDetError, match=message):
        read_dataset(coco([item(7, 5, 1, 2, 3, 4)], **change), "train")


def test_file_names_are_relative_to_the_folder_of_the_images(coco: Write, tmp_path: Path) -> None:
    names = {7: "a.jpg", 8: "./b.jpg", 9: f"{tmp_path}/train/b.jpg"}
    images = [{"id": n, "file_name": name, "height": 40, "width": 60} for n, name in names.items()]
    dataset = read_dataset(coco([item(7, 5, 1, 2, 3, 4)], images=images), "train")
    assert [record.image_path for record in dataset.records] == [
        str(tmp_path / "train" / name) for name in ("a.jpg", "b.jpg", "b.jpg")
    ]


def test_the_first_of_several_damaged_images_is_named(coco: Write, tmp_path: Path) -> None:
    images = [{"id": number, "file_name": f"{number:03d}.jpg"} for number in range(200)]
    config = coco([item(7, 5, 1, 2, 3, 4)], images=images)
    whole = (tmp_path / "train" / "a.jpg").read_bytes()
    for image in images:
        damaged = image["id"] in (90, 91, 150)
        (tmp_path / "train" / str(image["file_name"])).write_bytes(b"" if damaged else whole)
    with pytest.raises(
        PointDetError, match=r"/090.jpg is not an image that can be decoded, and its annotation"
    ):
        read_dataset(config, "train")


def test_an_impossible_area_is_that_of_the_box(coco: Write, caplog: pytest.LogCaptureFixture) -> None:
    dataset = read_dataset(coco([{**item(7, 5, 1, 2, 3, 4), "area": 1e300}]), "train")
    assert dataset.records[0].annotation.areas.tolist() == [12]
    assert "1 areas of" in caplog.text and "object 0" in caplog.text


def test_many_categories_and_deep_nesting(coco: Write, tmp_path: Path) -> None:
    categories = [{"id": number, "name": f"name {number}"} for number in range(50_000)]
    start = time.process_time()
    assert (
        len(read_dataset(coco([item(7, 5, 1, 2, 3, 4)], categories=categories), "train").class_names)
        == 50_000
    )
    assert time.process_time() - start < 5
    config = coco([item(7, 5, 1, 2, 3, 4)])
    (tmp_path / "train.json").write_text("[" * 100_000)
    with pytest.raises(PointDetError, match="train.json is nested too deeply"):
        read_dataset(config, "train")
