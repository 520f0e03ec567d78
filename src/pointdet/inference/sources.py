# SPDX-License-Identifier: Apache-2.0
"""Where pictures come from (an image, a folder, a video) and where drawn ones go; nothing opens a window."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pointdet.data.images import ImageFault, read_image
from pointdet.errors import PointDetError
from pointdet.structures import Detections

Image = npt.NDArray[np.uint8]  # (H, W, 3) BGR

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})

logger = logging.getLogger("pointdet")


@dataclass(frozen=True)
class Frame:
    """One picture to be looked at."""

    name: str  # different for every frame of a source; what is made of the frame is called after it
    image: Image


def is_video(path: Path) -> bool:
    """Whether `frames` reads that path as a video: a file that is not called like an image."""
    return path.is_file() and path.suffix.lower() not in IMAGE_SUFFIXES


def frames(path: Path) -> Iterator[Frame]:
    """The pictures of an image file, of a folder (sorted by name, subfolders aside) or of a video file.

    A folder's images that cannot be decoded are left out with one warning.
    Errors: PointDetError for a path without any picture.
    """
    if is_video(path):
        yield from _video_frames(path)
    elif path.is_dir():
        yield from _folder_frames(path)
    elif path.exists():
        try:
            yield Frame(path.stem, read_image(path))
        except ImageFault as fault:
            raise PointDetError(f"{fault}; give another image") from None
    else:
        raise PointDetError(f"{path} does not exist; give an image, a folder of images or a video")


def frame_rate(path: Path) -> float:
    """Frames per second of a video file."""
    capture = _open_video(path)
    rate = float(capture.get(cv2.CAP_PROP_FPS))
    capture.release()
    return rate if 0 < rate < 1000 else 25.0  # some containers do not say


def _folder_frames(folder: Path) -> Iterator[Frame]:
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not paths:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise PointDetError(
            f"the folder {folder} holds no images ({suffixes}); its subfolders are not searched"
        )
    faults = []
    for name, path in zip(_unique_names(paths), paths, strict=True):
        try:
            image = read_image(path)
        except ImageFault as fault:
            faults.append(str(fault))
            continue
        yield Frame(name, image)
    if len(faults) == len(paths):
        raise PointDetError(
            f"none of the {len(paths)} images in {folder} can be read; the first: {faults[0]}"
        )
    if faults:
        logger.warning("%d of %d images were left out: %s", len(faults), len(paths), "; ".join(faults))


def _unique_names(paths: Sequence[Path]) -> list[str]:
    """The stems; where a.jpg and a.png lie in one folder, the second becomes a_2."""
    names: list[str] = []
    for path in paths:
        name, number = path.stem, 2
        while name in names:
            name, number = f"{path.stem}_{number}", number + 1
        names.append(name)
    return names


def _open_video(path: Path) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise PointDetError(
            f"{path} is neither an image nor a video that OpenCV can read; convert it to mp4 or jpg"
        )
    return capture


def _video_frames(path: Path) -> Iterator[Frame]:
    capture = _open_video(path)
    number = 0
    try:
        while True:
            read, image = capture.read()
            if not read:
                break
            yield Frame(f"{path.stem}_{number:06d}", np.asarray(image, np.uint8))
            number += 1
    finally:
        capture.release()
    if not number:
        raise PointDetError(f"the video {path} holds no frame that can be decoded; convert it to mp4")


def save_image(path: Path, image: Image) -> None:
    """Write a picture; the suffix names the format, missing folders are made."""
    encoded, data = cv2.imencode(path.suffix, image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    if not encoded:
        raise PointDetError(f"cannot encode a picture as {path}")
    _make_folder(path.parent)
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise PointDetError(f"cannot write {path}: {error.strerror}") from None


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PointDetError(f"cannot make the folder {folder}: {error.strerror}; choose another") from None


class Sink:
    """Drawn pictures, kept in a folder: one mp4 where they come from a video, else one jpg for each.

    The mp4 encoder leaves out the last row or column of a picture with odd sides.
    """

    def __init__(self, source: Path, folder: Path) -> None:
        self._folder, self._stem = folder, source.stem
        self._rate = frame_rate(source) if is_video(source) else None
        self._videos: dict[str, cv2.VideoWriter] = {}

    def write(self, frame: Frame, picture: Image, kind: str = "") -> None:
        """Keep `picture`, made of that frame; `kind` is added to the name. In a video all have one size."""
        if self._rate is None:
            save_image(self._folder / f"{frame.name}{kind}.jpg", picture)
            return
        if kind not in self._videos:
            _make_folder(self._folder)
            path = self._folder / f"{self._stem}{kind}.mp4"
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._videos[kind] = cv2.VideoWriter(str(path), code, self._rate, picture.shape[1::-1])
            if not self._videos[kind].isOpened():
                raise PointDetError(f"cannot write the video {path}; choose another --save_dir")
        self._videos[kind].write(picture)

    def close(self) -> None:
        """Finish the videos; players refuse unfinished ones."""
        for video in self._videos.values():
            video.release()


def describe(name: str, found: Detections, class_names: Sequence[str]) -> dict[str, object]:
    """The detections (boxes_image) of one frame as plain values for JSON, in full precision."""
    return {
        "name": name,
        "detections": [
            {"class": class_names[label], "label": label, "score": score, "box_x1y1x2y2": box}
            for box, label, score in zip(
                found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
            )
        ],
    }
