# SPDX-License-Identifier: Apache-2.0
"""The types of COCO files: what is accepted, and the sentence for each value of another type."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pointdet.data import coco_file
from pointdet.data.coco_file import read_file
from pointdet.errors import PointDetError


def content(**changes: Any) -> dict[str, Any]:
    """Two images, two objects and one category. `images_1={...}`: changes of entry 1 of 'images'."""
    whole: dict[str, Any] = {
        "info": {"year": 2017},
        "images": [{"id": n, "file_name": f"{n}.jpg", "height": 40, "width": 60} for n in (1, 2)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 5, "bbox": [1, 2.5, 3, 4], "area": 12, "iscrowd": 0}
            for n in (1, 2)
        ],
        "categories": [{"id": 5, "name": "dog"}],
    }
    for place, change in changes.items():
        name, _, number = place.partition("_")
        whole[name][int(number)] |= change
    return whole


def written(folder: Path, text: str | dict[str, Any]) -> Path:
    path = folder / "some.json"
    path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return path


WHOLE = "instead of a whole number; number the entries in the program that exported the file"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"images_1": {"id": "cam-3"}}, f"$.images[1].id: 'id' of entry 1 of 'images' is 'cam-3' {WHOLE}"),
        ({"images_1": {"id": None}}, f"$.images[1].id: 'id' of entry 1 of 'images' is None {WHOLE}"),
        ({"images_1": {"id": 2.0}}, f"$.images[1].id: 'id' of entry 1 of 'images' is 2.0 {WHOLE}"),
        ({"images_1": {"id": True}}, f"$.images[1].id: 'id' of entry 1 of 'images' is True {WHOLE}"),
        ({"images_1": {"id": 2**63}}, f"$.images[1].id: 'id' of entry 1 of 'images' is a very long number {WHOLE}"),
        ({"images_1": {"id": -(2**63)}}, f"$.images[1].id: 'id' of entry 1 of 'images' is a very long number {WHOLE}"),
        ({"images_1": {"file_name": None}}, "$.images[1].file_name: 'file_name' of entry 1 of 'images' is None instead of a name; export the file again"),
        ({"images_1": {"file_name": ["a.jpg"]}}, "$.images[1].file_name: 'file_name' of entry 1 of 'images' is ['a.jpg'] instead of a name; export the file again"),
        ({"images_1": {"height": [40]}}, "$.images[1].height: size of image 1 is ([40], 60) instead of 2 number(s); export the file again"),
        ({"images_1": {"width": {"px": 60}}}, "$.images[1].width: size of image 1 is (40, {'px': 60}) instead of 2 number(s); export the file again"),
        ({"annotations_1": {"image_id": "2"}}, f"$.annotations[1].image_id: 'image_id' of entry 1 of 'annotations' is '2' {WHOLE}"),
        ({"annotations_1": {"category_id": [5]}}, f"$.annotations[1].category_id: 'category_id' of entry 1 of 'annotations' is [5] {WHOLE}"),
        ({"annotations_1": {"bbox": None}}, "$.annotations[1].bbox: bbox of object 1 is None instead of 4 number(s); export the file again"),
        ({"annotations_1": {"bbox": []}}, "$.annotations[1].bbox: bbox of object 1 is [] instead of 4 number(s); export the file again"),
        ({"annotations_1": {"bbox": [[1, 2], [3, 4]]}}, "$.annotations[1].bbox: bbox of object 1 is [[1, 2], [3, 4]] instead of 4 number(s); export the file again"),
        ({"annotations_1": {"bbox": [1, 2, [3], 4]}}, "$.annotations[1].bbox[2]: bbox of object 1 is [1, 2, [3], 4] instead of 4 number(s); export the file again"),
        ({"annotations_1": {"bbox": {"x": 1}}}, "$.annotations[1].bbox: bbox of object 1 is {'x': 1} instead of 4 number(s); export the file again"),
        ({"annotations_1": {"bbox": "1,2,3,4"}}, "$.annotations[1].bbox: bbox of object 1 is '1,2,3,4' instead of 4 number(s); export the file again"),
        ({"annotations_1": {"area": [12]}}, "$.annotations[1].area: area of object 1 is [12] instead of 1 number(s); export the file again"),
        ({"annotations_1": {"iscrowd": {}}}, "$.annotations[1].iscrowd: iscrowd of object 1 is {} instead of 0 or 1; export the file again"),
        ({"categories_0": {"id": "dog"}}, f"$.categories[0].id: 'id' of entry 0 of 'categories' is 'dog' {WHOLE}"),
        ({"categories_0": {"name": None}}, "$.categories[0].name: the name of entry 0 of 'categories' is None; give it a name"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_one_sentence_with_its_place(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    path = written(tmp_path, content(**changes))
    with pytest.raises(PointDetError) as raised:
        read_file(path)
    assert str(raised.value) == f"{path}, {sentence}"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"images": [[1, "1.jpg"]]}, "$.images[0]: entry 0 of 'images' is [1, '1.jpg'] instead of an object"),
        ({"annotations": [{}]}, "$.annotations[0]: entry 0 of 'annotations' has no 'image_id'"),
        ({"categories": [{"id": 5}]}, "$.categories[0]: entry 0 of 'categories' has no 'name'"),
    ],
)
def test_an_entry_that_is_no_object_or_lacks_a_key(
    tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    path = written(tmp_path, content() | change)
    with pytest.raises(PointDetError) as raised:
        read_file(path)
    assert str(raised.value) == f"{path}, {sentence}; export the file again"


@pytest.mark.parametrize("text", ["[]", "5", "null", '{"images": 5}', '{"images": null}'])
def test_a_file_without_the_lists(tmp_path: Path, text: str) -> None:
    with pytest.raises(PointDetError, match="some.json has no list 'images'; give a COCO instances file"):
        read_file(written(tmp_path, text))


@pytest.mark.parametrize(
    "text", ["", "{", '{"images": [{"id": 1', "{} {}", '{"images": [],}', '{"images": "\x01"}']
)
def test_a_file_that_is_no_json(tmp_path: Path, text: str) -> None:
    with pytest.raises(PointDetError, match="some.json is not valid JSON: .*; download or export it again"):
        read_file(written(tmp_path, text))


def test_unknown_keys_may_have_any_value(tmp_path: Path) -> None:
    found = read_file(written(tmp_path, content(annotations_0={"segmentation": [[1, 2, 3]], "score": "?"})))
    assert not hasattr(found.annotations[0], "segmentation")
    assert found.annotations[0].bbox == (1, 2.5, 3, 4)


def test_a_byte_order_mark_and_ids_of_64_bits(tmp_path: Path) -> None:
    path = written(
        tmp_path, "\ufeff" + json.dumps(content(images_0={"id": 2**63 - 1}, images_1={"id": 1 - 2**63}))
    )
    assert [image.id for image in read_file(path).images] == [2**63 - 1, 1 - 2**63]


def refused_by_msgspec(path: Path) -> bool:
    try:
        msgspec.json.decode(path.read_bytes(), type=coco_file.CocoFile)
    except msgspec.DecodeError:
        return True
    return False


@pytest.mark.parametrize(
    ("text", "area"),
    [("NaN", math.nan), ("Infinity", math.inf), ("-Infinity", -math.inf), ("1e999", math.inf)],
)
def test_numbers_that_only_python_writes_are_read(tmp_path: Path, text: str, area: float) -> None:
    path = written(tmp_path, json.dumps(content()).replace('"area": 12', f'"area": {text}', 1))
    assert refused_by_msgspec(path)
    found = read_file(path)
    assert found.annotations[0].area == pytest.approx(area, nan_ok=True)
    assert found.annotations[1].area == 12


def test_file_names_that_are_not_utf8_are_read(tmp_path: Path) -> None:
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    path = written(tmp_path, content(images_0={"file_name": name}))
    assert refused_by_msgspec(path)
    assert read_file(path).images[0].file_name == name


def test_a_key_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        PointDetError, match="some.json has a key that is not UTF-8 text; export the file again"
    ):
        read_file(written(tmp_path, content(images_0={"caf\udce9": 1})))


def test_both_readers_give_the_same(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        content(images_0={"height": "40", "width": None}, annotations_1={"bbox": ["1", None, 0, -2]}),
    )
    assert not refused_by_msgspec(path)
    assert read_file(path) == coco_file._read_by_json(path)


def test_a_wrong_type_beside_python_s_numbers_is_named(tmp_path: Path) -> None:
    text = json.dumps(content(annotations_1={"image_id": "2"})).replace('"area": 12', '"area": NaN', 1)
    with pytest.raises(PointDetError, match=r"\$.annotations\[1\].image_id: 'image_id' of entry 1"):
        read_file(written(tmp_path, text))
