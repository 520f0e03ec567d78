# SPDX-License-Identifier: Apache-2.0
"""Output of the demo: drawn pictures as images or as a video with sound, and one line of JSON per frame."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2

from pointdet.arrays import Image
from pointdet.data.library_output import without_library_output
from pointdet.errors import DISK, PointDetError
from pointdet.files import replacing
from pointdet.inference.sources import Frame, Source
from pointdet.structures import Detections


class Sink:
    """A folder with `detections.jsonl` and drawn pictures: an mp4 of a video or camera, a jpg of each image.

    `write_detections` writes each line at once, so that a killed run loses none. The mp4 encoder drops the last row
    or column of pictures whose height or width is odd. On a full disk all lines, pictures and videos stay that are
    whole.
    """

    def __init__(self, source: Source, folder: Path) -> None:
        """Errors: PointDetError if the folder cannot be written."""
        self._source, self._folder = source, folder
        self._videos: dict[str, cv2.VideoWriter] = {}
        self._written: Counter[str] = Counter()  # frames of each video
        _make_folder(folder)
        path = folder / "detections.jsonl"
        try:
            self._lines = path.open("wb", buffering=0)
        except OSError as error:
            raise _cannot_write(path, error) from None

    def video(self, kind: str = "") -> Path:
        """The path of the video of these pictures; `kind` as in `write`."""
        return self._folder / f"{self._source.name}{kind}.mp4"

    def write_detections(self, frame: Frame, found: Detections, class_names: Sequence[str]) -> None:
        """Write the line of a frame. `found` are boxes_image."""
        line = (json.dumps(describe(frame, found, class_names)) + "\n").encode()
        start = self._lines.tell()
        try:
            while line:
                line = line[self._lines.write(line) :]
        except OSError as error:
            self._lines.seek(self._lines.truncate(start))
            raise _cannot_write(self._folder / "detections.jsonl", error) from None

    def write(self, frame: Frame, picture: Image, kind: str = "") -> None:
        """Write the picture of a frame; `kind` is appended to the file name.

        All pictures of one kind in a video must have the same size. Pictures of a camera arrive at irregular
        times; the video repeats a picture until the time of the next one.
        """
        if self._source.rate is None or frame.seconds is None:
            save_image(self._folder / f"{frame.name}{kind}.jpg", picture)
            return
        if kind not in self._videos:
            code, path = cv2.VideoWriter.fourcc(*"mp4v"), self.video(kind)
            writer = cv2.VideoWriter(str(path), code, self._source.rate, picture.shape[1::-1])
            if not writer.isOpened():
                _remove(path)
                raise PointDetError(f"cannot write the video {path}; choose another --save_dir")
            self._videos[kind] = writer
        missing = round(frame.seconds * self._source.rate) + 1 - self._written[kind]
        for _ in range(missing):
            self._videos[kind].write(picture)
            self._written[kind] += 1

    def close(self) -> None:
        """Finish the files. Errors: PointDetError for a video that is not whole; it is removed.

        OpenCV reports no error of writing. Players cannot open an unfinished video.
        """
        self._lines.close()
        for video in self._videos.values():
            video.release()
        for kind in self._videos:
            path = self.video(kind)
            with without_library_output():
                written = cv2.VideoCapture(str(path))
                whole = written.get(cv2.CAP_PROP_FRAME_COUNT) == self._written[kind]
                written.release()
            if not whole:
                _remove(path)
                raise PointDetError(
                    f"cannot write the video {path} to its end; free space or choose another --save_dir"
                )


def add_sound(video: Path, source: Path) -> str:
    """Copy the sound of the video `source` into `video` without re-encoding.

    Returns: one line that reports the result.
    OpenCV writes no sound; the program ffmpeg is used.
    """
    if shutil.which("ffmpeg") is None:
        return f"{video.name} has no sound: to copy that of {source.name}, install ffmpeg"
    inputs = ["-i", str(video), "-i", str(source), "-map", "0:v", "-map", "1:a", "-c", "copy"]
    command = ["ffmpeg", "-nostdin", "-y", "-v", "error", *inputs]
    try:
        with replacing(video) as writing:
            subprocess.run(
                [*command, str(writing)], check=True, capture_output=True, text=True, errors="replace"
            )
    except subprocess.CalledProcessError as error:
        if "matches no streams" in error.stderr:
            return f"{source.name} has no sound"
        reason = error.stderr.partition("\n")[0] or f"status {error.returncode}"
        return f"{video.name} has no sound: ffmpeg cannot copy that of {source.name} ({reason})"
    return f"{video.name} has the sound of {source.name}"


def describe(frame: Frame, found: Detections, class_names: Sequence[str]) -> dict[str, object]:
    """The detections (boxes_image) of a frame as plain values for JSON, in full precision."""
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
    """Write a picture in the format of the suffix. Errors: PointDetError if that fails."""
    encoded, data = cv2.imencode(path.suffix, image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    if not encoded:
        raise PointDetError(f"cannot encode a picture as {path}")
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        _remove(path)
        raise _cannot_write(path, error) from None


def _remove(path: Path) -> None:
    """Remove what was written of a file, if `path` is one."""
    if path.is_file():
        path.unlink()


def _cannot_write(path: Path, error: OSError) -> PointDetError:
    free = "free space or " if error.errno in DISK else ""
    return PointDetError(f"cannot write {path} ({error.strerror}); {free}choose another --save_dir")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PointDetError(f"cannot make the folder {folder}: {error.strerror}; choose another") from None
