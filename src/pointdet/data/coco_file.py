# SPDX-License-Identifier: Apache-2.0
"""COCO instances JSON file -> typed entries, without the polygons. Refuses values of other types.

msgspec reads the file from a memory map and checks the types: ten times as fast as `json`, with a third of the memory.
It knows only what the JSON standard allows. Python's `json` reads more: NaN, Infinity, numbers beyond float64, and
text with single surrogates (file names that are not UTF-8). Real files contain these, because `json` also writes
them. So a file that msgspec refuses is read a second time, by `json`. Either it is valid then, or the error is found
where both readers see it, and its value can be shown.
"""

from __future__ import annotations

import codecs
import gc
import json
import mmap
import re
from pathlib import Path
from typing import Annotated, Any

import msgspec

from pointdet.errors import PointDetError

MAX_ID = 2**63
LISTS = ("images", "annotations", "categories")
FIX = "give a COCO instances file with annotated objects"

Id = Annotated[int, msgspec.Meta(ge=1 - MAX_ID, le=MAX_ID - 1)]
Number = float | str | None  # text: some tools write numbers as text


class ImageEntry(msgspec.Struct, gc=False):
    id: Id
    file_name: str | int
    height: Number = None
    width: Number = None


class ObjectEntry(msgspec.Struct, gc=False):
    image_id: Id
    category_id: Id
    bbox: tuple[Number, Number, Number, Number]  # x, y, width, height
    area: Number = None
    iscrowd: bool | int | float | str | None = 0


class CategoryEntry(msgspec.Struct, gc=False):
    id: Id
    name: str | int


class CocoFile(msgspec.Struct):
    images: list[ImageEntry]
    annotations: list[ObjectEntry]
    categories: list[CategoryEntry]


_DECODER = msgspec.json.Decoder(CocoFile)

_WHOLE = "a whole number"
_NUMBERED = "number the entries in the program that exported the file"
# (list, key) -> what the value belongs to, what it should be, the fix
_MESSAGES = {
    ("images", "file_name"): ("'file_name' of entry {} of 'images'", "a name", "export the file again"),
    ("images", "height"): ("size of image {}", "2 number(s)", "export the file again"),
    ("images", "width"): ("size of image {}", "2 number(s)", "export the file again"),
    ("annotations", "bbox"): ("bbox of object {}", "4 number(s)", "export the file again"),
    ("annotations", "area"): ("area of object {}", "1 number(s)", "export the file again"),
    ("annotations", "iscrowd"): ("iscrowd of object {}", "0 or 1", "export the file again"),
    ("categories", "name"): ("the name of entry {} of 'categories'", "", "give it a name"),
}


def read_file(path: Path) -> CocoFile:
    """The entries of a file; each list has at least one.

    Errors: PointDetError if the file is missing, is not JSON, lacks a list or a key, or has a value of another type.
    """
    gc.disable()  # garbage collection scans all entries repeatedly: reading takes three times as long
    try:
        return _read(path)
    except OSError as error:
        raise PointDetError(
            f"cannot read the annotations {path}: {error.strerror}; check the dataset section"
        ) from None
    finally:
        gc.enable()


def refusal(path: Path, what: str, number: int, key: str, value: object, at: str = "") -> PointDetError:
    """The error for the value of `key` in entry `number` of the list `what`. `at`: place below the key, as "[2]"."""
    by_default = (f"{key!r} of entry {{}} of {what!r}", _WHOLE, _NUMBERED)
    subject, wanted, fix = _MESSAGES.get((what, key), by_default)
    shown = f"is {_shown(value)}" + (f" instead of {wanted}" if wanted else "")
    return PointDetError(f"{path}, $.{what}[{number}].{key}{at}: {subject.format(number)} {shown}; {fix}")


def _shown(value: object) -> str:
    """The value for a message, shortened. A number can have more digits than Python prints."""
    return "a very long number" if type(value) is int and abs(value) >= MAX_ID else repr(value)[:80]


def _read(path: Path) -> CocoFile:
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as data,
            memoryview(data)[len(codecs.BOM_UTF8) if data[:3] == codecs.BOM_UTF8 else 0 :] as text,
        ):
            content = _DECODER.decode(text)
        if all(getattr(content, key) for key in LISTS):
            return content
    except (OSError, ValueError, RecursionError):  # also a file that cannot be mapped, such as an empty one
        pass
    return _read_by_json(path)


def _read_by_json(path: Path) -> CocoFile:
    try:
        with path.open(encoding="utf-8-sig") as file:
            content: Any = json.load(file, object_hook=_without_polygons)
    except OSError:
        raise
    except ValueError as error:
        raise PointDetError(f"{path} is not valid JSON: {error}; download or export it again") from None
    except RecursionError:
        raise PointDetError(f"{path} is nested too deeply for a COCO file; export it again") from None
    for key in LISTS:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise PointDetError(f"{path} has no list {key!r}; {FIX}")
        if not content[key]:
            raise PointDetError(f"the list {key!r} of {path} is empty; {FIX}")
    try:
        return msgspec.convert(content, CocoFile)
    except UnicodeEncodeError:
        raise PointDetError(f"{path} has a key that is not UTF-8 text; export the file again") from None
    except msgspec.ValidationError as error:
        raise _translated(path, content, str(error)) from None


def _without_polygons(entry: dict[str, Any]) -> dict[str, Any]:
    entry.pop("segmentation", None)  # nine tenths of the memory
    return entry


def _translated(path: Path, content: dict[str, list[Any]], message: str) -> PointDetError:
    """The error for a message of msgspec, which ends with the place: "Expected `int`, got `str` - at `$.images[0].id`"."""
    found = re.search(r"\$\.(\w+)\[(\d+)\](?:\.(\w+)([^`]*))?", message)
    if found is None:
        return PointDetError(f"{path} is not a COCO file: {message}; {FIX}")
    what, number, key, at = found[1], int(found[2]), found[3], found[4]
    entry = content[what][number]
    if key is not None:
        value = (entry.get("height"), entry.get("width")) if key in ("height", "width") else entry[key]
        return refusal(path, what, number, key, value, at)
    missing = re.search("required field `(.*?)`", message)
    fault = f"has no {missing[1]!r}" if missing else f"is {_shown(entry)} instead of an object"
    return PointDetError(
        f"{path}, $.{what}[{number}]: entry {number} of {what!r} {fault}; export the file again"
    )
