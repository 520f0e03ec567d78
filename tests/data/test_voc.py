# SPDX-License-Identifier: Apache-2.0
"""Valid and invalid Pascal VOC files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pointdet.config import schema
from pointdet.data.catalogue import read_dataset
from pointdet.errors import PointDetError

Write = Callable[..., schema.DatasetConfig]
SIZE = "<size><width>60</width><height>40</height><depth>3</depth></size>"


def xml_object(name: str, *corners: object, more: str = "") -> str:
    x1, y1, x2, y2 = corners
    box = f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


def test_boxes_labels_and_difficult(voc: Write) -> None:
    parts = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    config = voc(
        {
            "000005": SIZE
            + xml_object("dog", 1, 1, 60, 40)
            + xml_object("cat", 2, 3, 5.5, 8, more="<difficult>1</difficult>"),
            "000002": SIZE + xml_object("person", 11, 12, 21, 32, more=parts),
            "000009": SIZE,
        }
    )
    dataset = read_dataset(config, "train")
    assert dataset.class_names == ("cat", "dog", "person")
    assert dataset.category_ids == (1, 2, 3)
    first, second, third = dataset.records
    assert [record.image_id for record in dataset.records] == [0, 1, 2]
    assert first.image_path.endswith("VOC2007/JPEGImages/000005.jpg")
    np.testing.assert_array_equal(first.annotation.boxes, [[0, 0, 59, 39], [1, 2, 4.5, 7]])
    np.testing.assert_array_equal(first.annotation.labels, [1, 0])
    np.testing.assert_array_equal(first.annotation.ignore, [False, True])
    np.testing.assert_array_equal(first.annotation.areas, [59 * 39, 17.5])
    np.testing.assert_array_equal(second.annotation.boxes, [[10, 11, 20, 31]])
    assert len(third.annotation) == 0


def test_lists_are_joined_and_read_leniently(
    voc: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = {stem: SIZE + xml_object("dog", 1, 1, 9, 9) for stem in ("a", "b", "c d")}
    lists = {"dog_train": "a  1\r\nb -1\r\n\r\n", "more": "\ufeffc d\nb\n"}
    config = voc(
        files,
        lists,
        train={"annotations": [f"VOC2007/ImageSets/Main/{name}.txt" for name in lists]},
    )
    dataset = read_dataset(config, "train")
    assert [Path(record.image_path).stem for record in dataset.records] == ["a", "b", "c d"]
    assert "1 images are listed more than once: kept once (first: b)" in caplog.text


def test_val_has_the_classes_of_train(voc: Write) -> None:
    files = {
        "a": SIZE + xml_object("dog", 1, 1, 9, 9),
        "b": SIZE + xml_object("cat", 1, 1, 9, 9),
        "c": SIZE + xml_object("dgo", 1, 1, 9, 9),
    }
    config = voc(files, {"trainval": "a\nb", "test": "a"})
    train = read_dataset(config, "train")
    val = read_dataset(config, "val", train.class_names)
    assert val.class_names == ("cat", "dog")
    assert val.records[0].annotation.labels.tolist() == [1]
    config = voc(files, {"trainval": "a\nb", "test": "c"})
    with pytest.raises(
        PointDetError, match=r"the class 'dgo' is not one of the 2 trained classes .*nearest: 'dog'"
    ):
        read_dataset(config, "val", train.class_names)


def test_class_names_select_the_classes(voc: Write, caplog: pytest.LogCaptureFixture) -> None:
    files = {"a": SIZE + xml_object("dog", 1, 1, 9, 9) + xml_object("cat", 2, 2, 8, 8)}
    dataset = read_dataset(voc(files, class_names=["dog"]), "train")
    np.testing.assert_array_equal(dataset.records[0].annotation.boxes, [[0, 0, 8, 8]])
    assert "1 objects of classes that are not in the class names (cat) are left out" in caplog.text
    with pytest.raises(PointDetError, match="there is no class 'dogs', but there is 'dog'"):
        read_dataset(voc(files, class_names=["dogs", "cat"]), "train")


@pytest.mark.parametrize(
    ("corners", "expected", "warning"),
    [
        ((5, 5, 5, 9), None, "1 boxes without area are left out (first: "),
        ((9, 5, 5, 9), None, "1 boxes without area"),
        (("nan", 5, 5, 9), None, "1 boxes without area"),
        ((70, 5, 80, 9), None, "1 boxes outside their image are left out"),
        ((-9, 5, 20, 9), (0, 4, 19, 8), "1 boxes extend beyond their image and are clipped"),
        ((0, 5, 20, 9), (-1, 4, 19, 8), None),
    ],
)
def test_invalid_boxes(
    voc: Write,
    caplog: pytest.LogCaptureFixture,
    corners: tuple[object, ...],
    expected: tuple[float, ...] | None,
    warning: str | None,
) -> None:
    dataset = read_dataset(
        voc({"a": SIZE + xml_object("dog", *corners) + xml_object("dog", 1, 1, 9, 9)}), "train"
    )
    boxes = dataset.records[0].annotation.boxes
    np.testing.assert_array_equal(boxes, [*([] if expected is None else [expected]), (0, 0, 8, 8)])
    assert (warning in caplog.text and "a.jpg" in caplog.text) if warning else not caplog.records


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
def test_missing_size_is_read_from_the_image(voc: Write, caplog: pytest.LogCaptureFixture, size: str) -> None:
    record = read_dataset(voc({"a": size + xml_object("dog", 1, 1, 9, 9)}), "train").records[0]
    assert (record.height, record.width) == (40, 60)
    assert "1 images without a size" in caplog.text


def test_images_with_other_extensions_and_names(
    voc: Write, tmp_path: Path, write_image: Callable[..., Path]
) -> None:
    files = {
        "a": SIZE + xml_object("dog", 1, 1, 9, 9),
        "b": "<filename>photo.jpg</filename>" + SIZE,
        # Outdated, as after renaming: the image named like the XML file is used.
        "c": "<filename>a.PNG</filename>" + SIZE,
    }
    config = voc(files)
    images = tmp_path / "VOC2007" / "JPEGImages"
    write_image(images / "a.PNG")
    for name, new in (("a.jpg", None), ("b.jpg", "photo.jpg")):
        if new is None:
            (images / name).unlink()
        else:
            (images / name).rename(images / new)
    names = [Path(record.image_path).name for record in read_dataset(config, "train").records]
    assert names == ["a.PNG", "photo.jpg", "c.jpg"]


def test_missing_images_are_an_error_with_their_number(voc: Write, tmp_path: Path) -> None:
    config = voc({"a": SIZE + xml_object("dog", 1, 1, 9, 9), "b": SIZE})
    (tmp_path / "VOC2007" / "JPEGImages" / "b.jpg").unlink()
    with pytest.raises(PointDetError, match=r"1 of 2 images are not on disk \(first: .*b.jpg\)"):
        read_dataset(config, "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<object>", r"a.xml is not a VOC annotation: mismatched tag"),
        ("<object><name>dog</name></object>", r"a.xml .* 'dog' has an incomplete bndbox"),
        ("<object></object>", r"a.xml .* an object has no name"),
        (xml_object("dog", 1, "two", 3, 4), r"a.xml .* could not convert string to float: 'two'"),
        ("", "no image of this split has objects"),
    ],
)
def test_invalid_files_are_errors(voc: Write, content: str, message: str) -> None:
    with pytest.raises(PointDetError, match=message):
        read_dataset(voc({"a": SIZE + content}), "train")


BOMB = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 9}">' for n in range(1, 12))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'<?xml version="1.0" encoding="none-such"?><annotation/>', "unknown encoding"),
        (b'<?xml version="1.0" encoding="utf-7"?><annotation/>', "a.xml is not a VOC annotation"),
        (
            f'<!DOCTYPE a [<!ENTITY e0 "x">{BOMB}]><annotation>&e11;</annotation>'.encode(),
            "it declares entities",
        ),
        (
            f'<!DOCTYPE a [<!ENTITY e0 "x">{BOMB}]><annotation>&e11;</annotation>'.encode("utf-16"),
            "declares entities",
        ),
        (b"<annotation>" + b" " * (1 << 24), "it has more than 16 MiB"),
        (b"<a>" * 100_000, "no element found"),
        (b"<a><size><height>1e300</height></size></a>", r"its height is 1e\+300 pixels"),
        (b"<a><size><height>nan</height></size></a>", "its height is nan pixels"),
    ],
    ids=["unknown encoding", "utf-7", "entities", "entities in utf-16", "long", "deep", "high", "nan"],
)
def test_hostile_files_are_errors(voc: Write, tmp_path: Path, content: bytes, message: str) -> None:
    config = voc({"a": SIZE})
    (tmp_path / "VOC2007" / "Annotations" / "a.xml").write_bytes(content)
    with pytest.raises(PointDetError, match=message):
        read_dataset(config, "train")


def test_absent_files_are_named(voc: Write, tmp_path: Path) -> None:
    config = voc({"a": SIZE}, {"trainval": "a\nz\n"})
    with pytest.raises(PointDetError, match=r"cannot read the annotation .*z.xml: No such file"):
        read_dataset(config, "train")
    with pytest.raises(PointDetError, match=r"cannot read the image set .*test.txt: No such file"):
        read_dataset(config, "val", ("dog",))
    with pytest.raises(PointDetError, match=r"trainval.txt is empty"):
        read_dataset(voc({"a": SIZE}, {"trainval": "\n"}), "train")
    config = voc({"a": SIZE})
    (tmp_path / "VOC2007" / "Annotations").rename(tmp_path / "VOC2007" / "annotations")
    with pytest.raises(PointDetError, match=r"Annotations does not exist"):
        read_dataset(config, "train")


def test_images_key_is_an_error(voc: Write) -> None:
    split = {"annotations": ["VOC2007/ImageSets/Main/trainval.txt"], "images": "JPEGImages"}
    with pytest.raises(PointDetError, match="remove the key `images`"):
        read_dataset(voc({"a": SIZE}, train=split), "train")


def test_many_annotations_keep_the_order_of_the_list(voc: Write) -> None:
    """Threads read them. The first of several damaged ones is named."""
    stems = [f"{number * 37 % 100:03d}" for number in range(100)]
    files = {stem: SIZE + xml_object("dog", 1, 1, 9, int(stem) % 30 + 5) for stem in stems}
    config = voc(files)
    dataset = read_dataset(config, "train")
    assert [Path(record.image_path).stem for record in dataset.records] == stems
    bottoms = [int(record.annotation.boxes[0, 3]) for record in dataset.records]
    assert bottoms == [int(stem) % 30 + 4 for stem in stems]
    for stem in (stems[60], stems[61], stems[97]):
        (Path(config.data_dir or "") / "VOC2007" / "Annotations" / f"{stem}.xml").write_text("<annotation>")
    with pytest.raises(PointDetError, match=f"Annotations/{stems[60]}.xml is not a VOC annotation"):
        read_dataset(config, "train")
