# SPDX-License-Identifier: Apache-2.0
"""Atomic writing: a file or folder is written under a temporary name next to its target and then renamed."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pointdet.errors import PointDetError, last_line


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`, with the same suffix. It is renamed to `path` at the end.

    A missing parent folder is created. After an error the temporary file is deleted and `path` is unchanged.
    Errors: PointDetError if the file cannot be written, for example because the disk is full.
    """
    writing = path.with_name(f".writing.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield writing
        _sync(writing)
        os.replace(writing, path)
        _sync(path.parent)
    except BaseException as error:
        if writing.exists():
            writing.unlink()
        reason = _system_error(error)
        if reason is None:
            raise
        raise PointDetError(f"cannot write {path} ({reason}); free space or choose another place") from None


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8. Errors: as `replacing`."""
    with replacing(path) as writing:
        writing.write_text(text, encoding="utf-8")


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield a new temporary folder next to `folder`. It is renamed to `folder` at the end.

    The block may create files, but no subfolders. After an error the temporary folder is deleted and `folder`
    is unchanged. Errors: PointDetError if the folder cannot be written, for example because the disk is full.
    """
    writing, old = _temporary_folders(folder)
    try:
        shutil.rmtree(writing, ignore_errors=True)
        writing.mkdir(parents=True)
        yield writing
        for file in writing.iterdir():
            _sync(file)
        _sync(writing)
        # A rename cannot replace a folder that has files. If the process is killed between the next two
        # renames, the previous content is in `old`, and `finish_replacement` restores it.
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        writing.rename(folder)
        _sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(writing, ignore_errors=True)
        reason = _system_error(error)
        if reason is None:
            raise
        raise PointDetError(
            f"cannot write {folder} ({reason}); free space or choose another output folder"
        ) from None


def link_or_copy(source: Path, target: Path) -> None:
    """Make the new file `target` a hard link to `source`, or a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
            raise
        shutil.copyfile(source, target)


def finish_replacement(folder: Path) -> None:
    """Restore the previous `folder` if a process was killed between the two renames of `replacing_folder`."""
    _, old = _temporary_folders(folder)
    if old.is_dir() and not folder.exists():
        old.rename(folder)


def finish_replacements(parent: Path) -> None:
    """Call `finish_replacement` for every folder in `parent`."""
    for old in sorted(parent.glob(".*.old")):
        finish_replacement(parent / old.name[1 : -len(".old")])


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk. A crash of the machine cannot lose them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _system_error(error: BaseException) -> str | None:
    """The operating system's reason for a failed read or write, or None for any other error.

    HDF5 puts the error number into its message, and raises RuntimeError if it fails to close a file.
    """
    if isinstance(error, OSError | RuntimeError) and (number := re.search(r"errno = (\d+)", str(error))):
        return os.strerror(int(number[1]))
    return (error.strerror or last_line(error)) if isinstance(error, OSError) else None


def _temporary_folders(folder: Path) -> tuple[Path, Path]:
    """The paths of the new and the previous content during a replacement."""
    return folder.with_name(f".{folder.name}.writing"), folder.with_name(f".{folder.name}.old")
