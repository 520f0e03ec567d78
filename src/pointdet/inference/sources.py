# SPDX-License-Identifier: Apache-2.0
"""Input of the demo: frames of an image, a folder of images, a video or a camera."""

from __future__ import annotations

import logging
import os
import re
import stat
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

# Set before OpenCV opens the first video. It silences the decoder; errors are reported here in one sentence.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2
import numpy as np

from pointdet.arrays import Image
from pointdet.available_memory import require
from pointdet.data.images import ImageFault, read_image
from pointdet.data.library_output import without_library_output
from pointdet.errors import PointDetError
from pointdet.inference.pipeline import parallel_map

Frames = Generator["Frame", None, None]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
CAMERA = re.compile(r"webcam|camera:(\d+)")
READING_THREADS = 4
FRAME_COPIES = 4  # of a decoded frame that exist at the same time
VIDEO_DEVICES = 81  # the major number of Linux for /dev/video0 and others
DEFAULT_RATE = 25.0  # frames per second

logger = logging.getLogger("pointdet")


@dataclass(frozen=True)
class Frame:
    """One image of a source."""

    name: str  # unique within a source; output files of the frame have this name
    image: Image
    seconds: float | None = None  # time since the first frame; videos and cameras only


@dataclass(frozen=True)
class Source:
    """Frames, and the properties that are known before the first frame is read."""

    name: str  # output files of the whole source, such as a video, have this name
    frames: Callable[[], Frames]  # may be called once
    count: int | None = None  # number of frames; an estimate for some videos
    rate: float | None = None  # frames per second; videos and cameras only
    sound: Path | None = None  # a file that may contain sound
    endless: bool = False


def open_source(location: str) -> Source:
    """Open "webcam", "camera:N", or the path of an image, a folder or a video.

    The images of a folder are sorted by name; subfolders are not searched. One warning names the images that
    cannot be decoded. A file without one of IMAGE_SUFFIXES is opened as a video.
    Errors: PointDetError, here or when the frames are read, if there is no image that can be read.
    """
    if camera := CAMERA.fullmatch(location):
        return _open_camera(int(camera[1] or 0))
    path = Path(location)
    _check_kind(path)
    if path.is_dir():
        paths = _image_paths(path)
        return Source(path.name, partial(_folder_frames, path, paths), len(paths))
    if not path.exists():
        raise PointDetError(
            f"{path} does not exist; give an image, a folder of images, a video, or camera:0 for the first "
            "camera"
        )
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return Source(path.stem, partial(_image_frame, path), 1)
    return _open_video(path)


def _check_kind(path: Path) -> None:
    """Errors: PointDetError for a pipe or socket, which could be waited for without end, and for most devices."""
    if not path.exists():
        return
    status = path.stat()
    is_camera = stat.S_ISCHR(status.st_mode) and os.major(status.st_rdev) == VIDEO_DEVICES
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode) or is_camera):
        raise PointDetError(
            f"{path} is a pipe, socket or device; give an image, a folder of images, a video or camera:N"
        )


def _image_frame(path: Path) -> Frames:
    try:
        yield Frame(path.stem, read_image(path))
    except ImageFault as fault:
        raise PointDetError(f"{fault}; give another image") from None


def _image_paths(folder: Path) -> list[Path]:
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not paths:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise PointDetError(
            f"the folder {folder} contains no images ({suffixes}); its subfolders are not searched"
        )
    return paths


def _folder_frames(folder: Path, paths: Sequence[Path]) -> Frames:
    def read(named: tuple[str, Path]) -> Frame | ImageFault:
        try:
            return Frame(named[0], read_image(named[1]))
        except ImageFault as fault:
            return fault

    faults = []
    named = zip(_unique_names(paths), paths, strict=True)
    with closing(parallel_map(read, named, READING_THREADS, READING_THREADS)) as frames:
        for frame in frames:
            if isinstance(frame, ImageFault):
                faults.append(str(frame))
            else:
                yield frame
    if len(faults) == len(paths):
        raise PointDetError(
            f"none of the {len(paths)} images in {folder} can be read; the first error: {faults[0]}"
        )
    if faults:
        logger.warning("%d of %d images were skipped: %s", len(faults), len(paths), "; ".join(faults))


def _unique_names(paths: Sequence[Path]) -> list[str]:
    """The stems of the paths, made unique: a.jpg and a.png of one folder become a and a_2."""
    names: dict[str, None] = {}
    for path in paths:
        name, number = path.stem, 2
        while name in names:
            name, number = f"{path.stem}_{number}", number + 1
        names[name] = None
    return list(names)


def _open_video(path: Path) -> Source:
    with without_library_output():
        capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise PointDetError(
            f"{path} is neither an image nor a video that OpenCV can read; convert it to mp4 or jpg"
        )
    height, width = (int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
    require(
        FRAME_COPIES * 3 * max(height, 0) * max(width, 0),
        f"a frame of {path}",
        "convert it to a smaller size",
    )
    rate, count = _rate(capture), max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0) or None
    return Source(path.stem, partial(_video_frames, path, capture, rate, count), count, rate, sound=path)


def _video_frames(path: Path, capture: cv2.VideoCapture, rate: float, count: int | None) -> Frames:
    number = 0
    for image in _captured(capture):
        yield Frame(f"{path.stem}_{number:06d}", image, number / rate)
        number += 1
    if not number:
        raise PointDetError(f"the video {path} contains no frame that can be decoded; convert it to mp4")
    if count is not None and number < 0.98 * count:  # a smaller difference: some containers store an estimate
        logger.warning("the video %s ends after %d of %d frames", path, number, count)


def _open_camera(index: int) -> Source:
    with without_library_output():
        capture = cv2.VideoCapture(index)
    if not capture.isOpened():
        raise PointDetError(
            f"camera {index} cannot be opened; connect it, close the program that uses it, or choose another "
            "camera:N"
        )
    name = f"camera_{index}"
    return Source(name, partial(_camera_frames, index, capture), rate=_rate(capture), endless=True)


def _camera_frames(index: int, capture: cv2.VideoCapture) -> Frames:
    start = None
    for number, image in enumerate(_captured(capture)):
        now = time.monotonic()
        start = now if start is None else start
        yield Frame(f"camera_{index}_{number:06d}", image, now - start)
    raise PointDetError(f"camera {index} delivers no more pictures; connect it again")


def _captured(capture: cv2.VideoCapture) -> Iterator[Image]:
    try:
        while True:
            with without_library_output():
                read, image = capture.read()
            if not read:
                return
            yield np.asarray(image, np.uint8)
    finally:
        capture.release()


def _rate(capture: cv2.VideoCapture) -> float:
    rate = float(capture.get(cv2.CAP_PROP_FPS))
    return rate if 0 < rate < 1000 else DEFAULT_RATE  # some containers and cameras report no valid rate
