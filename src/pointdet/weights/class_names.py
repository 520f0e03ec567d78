# SPDX-License-Identifier: Apache-2.0
"""The class names of COCO and VOC in the order of their labels, and class names from a text file."""

from __future__ import annotations

from pathlib import Path

from pointdet.errors import PointDetError

COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot",
    "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet", "tv",
    "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book",
    "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
VOC = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def of_count(count: int) -> tuple[str, ...] | None:
    """The class names of published networks with `count` classes: COCO for 80, VOC for 20, otherwise None."""
    return {len(COCO): COCO, len(VOC): VOC}.get(count)


def named(text: str) -> tuple[str, ...]:
    """The class names of "coco", "voc", or a text file with one name per line.

    Errors: PointDetError if the file cannot be read, is empty or has a name twice.
    """
    if text in ("coco", "voc"):
        return COCO if text == "coco" else VOC
    try:
        lines = Path(text).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise PointDetError(
            f"--classes {text} is neither coco, voc nor a text file; give a file with one class name per line"
        ) from None
    names = tuple(line.strip() for line in lines if line.strip())
    if not names or len(set(names)) < len(names):
        raise PointDetError(f"{text} names no class or one class twice; write one name per line")
    return names
