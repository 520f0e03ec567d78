# SPDX-License-Identifier: Apache-2.0
"""Class names of COCO and VOC, and from a text file."""

from pointdet.weights.class_names import COCO, VOC, named, of_count


def test_coco_and_voc():
    assert len(set(COCO)) == len(COCO) == 80 and (COCO[0], COCO[11], COCO[79]) == (
        "person",
        "stop sign",
        "toothbrush",
    )
    assert len(VOC) == 20 and list(VOC) == sorted(VOC)
    assert (of_count(80), of_count(20), of_count(3)) == (COCO, VOC, None)
    assert (named("coco"), named("voc")) == (COCO, VOC)


def test_text_file(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("red cell\n  platelet \n\n", encoding="utf-8")
    assert named(str(path)) == ("red cell", "platelet")
