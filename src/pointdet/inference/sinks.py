# SPDX-License-Identifier: Apache-2.0
"""Where drawn pictures and detections go: images or a video with its sound, and a line of JSON for every frame."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pointdet.errors import PointDetError
from pointdet.inference.sources import Frame, Source
from pointdet.structures import Detections

Image = npt.NDArray[np.uint8]  # (H, W, 3) BGR


class Sink:
    """A folder with `detections.jsonl` and drawn pictures: one mp4 of a video or camera, else one jpg for each.

    Every line is in the file when `tell` returns, so that a killed run keeps them. The mp4 encoder leaves out the last
    row or column of a picture with odd sides.
    """

    def __init__(self, source: Source, folder: Path) -> None:
        """Errors: PointDetError where the folder cannot be written."""
        self._source, self._folder = source, folder
        self._videos: dict[str, cv2.VideoWriter] = {}
        self._written: Counter[str] = Counter()  # frames of each video
        _make_folder(folder)
        lines = folder / "detections.jsonl"
        try:
            self._lines = lines.open("w", encoding="utf-8", buffering=1)
        except OSError as error:
            raise PointDetError(
                f"cannot write {lines}: {error.strerror}; choose another --save_dir"
            ) from None

    def video(self, kind: str = "") -> Path:
        """Where the pictures of a video go."""
        return self._folder / f"{self._source.name}{kind}.mp4"

    def tell(self, frame: Frame, found: Detections, class_names: Sequence[str]) -> None:
        """A line of what was found in that frame: boxes_image."""
        try:
            self._lines.write(json.dumps(describe(frame, found, class_names)) + "\n")
        except OSError as error:
            raise PointDetError(f"cannot write {self._lines.name}: {error.strerror}") from None

    def write(self, frame: Frame, picture: Image, kind: str = "") -> None:
        """Keep `picture`, made of that frame; `kind` is added to the name. In a video all have one size.

        A camera, or the network behind it, does not keep to a rate: its pictures stand as long as it took to the next.
        """
        if self._source.rate is None or frame.seconds is None:
            save_image(self._folder / f"{frame.name}{kind}.jpg", picture)
            return
        if kind not in self._videos:
            code, path = cv2.VideoWriter.fourcc(*"mp4v"), self.video(kind)
            writer = cv2.VideoWriter(str(path), code, self._source.rate, picture.shape[1::-1])
            if not writer.isOpened():
                raise PointDetError(f"cannot write the video {path}; choose another --save_dir")
            self._videos[kind] = writer
        due = round(frame.seconds * self._source.rate) + 1 - self._written[kind]
        for _ in range(due):
            self._videos[kind].write(picture)
            self._written[kind] += 1

    def close(self) -> None:
        """Finish the files; players refuse unfinished videos."""
        self._lines.close()
        for video in self._videos.values():
            video.release()


def add_sound(video: Path, source: Path) -> str:
    """Copy the sound of the file `source`, as it is, into `video`, which holds all its frames; one line that tells.

    OpenCV writes no sound; the program ffmpeg does.
    """
    if shutil.which("ffmpeg") is None:
        return f"{video.name} has no sound: to copy that of {source.name}, install ffmpeg"
    beside = video.with_name(f".{video.stem}.sound.mp4")
    inputs = ["-i", str(video), "-i", str(source), "-map", "0:v", "-map", "1:a", "-c", "copy"]
    command = ["ffmpeg", "-nostdin", "-y", "-v", "error", *inputs, str(beside)]
    result = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")
    if result.returncode == 0:
        beside.replace(video)
        return f"{video.name} has the sound of {source.name}"
    beside.unlink(missing_ok=True)
    if "matches no streams" in result.stderr:
        return f"{source.name} has no sound"
    reason = result.stderr.partition("\n")[0] or f"status {result.returncode}"
    return f"{video.name} has no sound: ffmpeg cannot copy that of {source.name} ({reason})"


def describe(frame: Frame, found: Detections, class_names: Sequence[str]) -> dict[str, object]:
    """The detections (boxes_image) of one frame as plain values for JSON, in full precision."""
    time = {} if frame.seconds is None else {"seconds": frame.seconds}
    return {
        "name": frame.name,
        **time,
        "detections": [
            {"class": class_names[label], "label": label, "score": score, "box_x1y1x2y2": box}
            for box, label, score in zip(
                found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
            )
        ],
    }


def save_image(path: Path, image: Image) -> None:
    """Write a picture; the suffix names the format."""
    encoded, data = cv2.imencode(path.suffix, image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    if not encoded:
        raise PointDetError(f"cannot encode a picture as {path}")
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise PointDetError(f"cannot write {path}: {error.strerror}; choose another --save_dir") from None


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PointDetError(f"cannot make the folder {folder}: {error.strerror}; choose another") from None
