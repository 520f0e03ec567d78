# SPDX-License-Identifier: Apache-2.0
"""Files and folders are replaced completely or not at all."""

import os
import resource
import signal
from pathlib import Path

import pytest

from pointdet.errors import PointDetError
from pointdet.files import (
    finish_replacement,
    finish_replacements,
    replacing,
    replacing_folder,
    write_text,
)

NO_SPACE = OSError(28, "No space left on device")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def folder_with(path, text):
    path.mkdir(parents=True)
    (path / "a.txt").write_text(text)
    return path


@pytest.fixture
def small_file_size_limit():
    """The process cannot write more than 1000 bytes to a file: an error of the system, as of a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_file_is_replaced_after_the_block(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("old")
    with replacing(path) as writing:
        writing.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and names(tmp_path) == ["x.json"]


@pytest.mark.parametrize("name", ["x.npz", "x.tar.gz"])
def test_temporary_file_has_the_suffix_and_folder_of_the_target(tmp_path, name):
    """Writers such as np.savez and OpenCV choose the format by the suffix."""
    path = tmp_path / name
    with replacing(path) as writing:
        assert writing.suffixes[-len(path.suffixes) :] == path.suffixes
        assert writing.parent == path.parent and writing != path
        writing.write_text("new")
    assert names(tmp_path) == [name]


def test_parent_folders_are_created(tmp_path):
    write_text(tmp_path / "deep" / "er" / "x.txt", "é\n")
    assert (tmp_path / "deep" / "er" / "x.txt").read_bytes() == "é\n".encode()


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt(), RuntimeError("no such layer")])
@pytest.mark.parametrize("old", ["old", None])
def test_error_in_the_block_leaves_the_old_file(tmp_path, error, old):
    path = tmp_path / "x.txt"
    if old:
        path.write_text(old)
    with pytest.raises(type(error)) as raised, replacing(path) as writing:
        writing.write_text("half")
        raise error
    assert raised.value is error
    assert names(tmp_path) == (["x.txt"] if old else [])
    assert not old or path.read_text() == old


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NO_SPACE, "No space left on device"),
        (OSError("while saving:\n\n  the encoder failed\n"), "the encoder failed"),
        (OSError(), "OSError"),
        (OSError("write failed: errno = 28, error message = 'x'"), "No space left on device"),
        (RuntimeError("cannot close (write failed: errno = 28, error message = 'x')"), "No space left on device"),
    ],
    ids=["errno", "text", "empty", "HDF5", "HDF5 closing"],
)  # fmt: skip
def test_system_error_becomes_one_sentence(tmp_path, error, reason):
    for target in (replacing, replacing_folder):
        with pytest.raises(PointDetError) as raised, target(tmp_path / "x") as writing:
            assert writing.parent == tmp_path
            raise error
        assert str(raised.value).startswith(f"cannot write {tmp_path / 'x'} ({reason}); free space or choose")
        assert raised.value.__suppress_context__ and names(tmp_path) == []


def test_write_beyond_the_file_size_limit(tmp_path, small_file_size_limit):
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with pytest.raises(PointDetError, match=r"cannot write .*x.txt \(File too large\); free space"):
        write_text(path, "new" * 1000)
    assert path.read_text() == "old" and names(tmp_path) == ["x.txt"]

    folder = folder_with(tmp_path / "last", "old")
    with (
        pytest.raises(PointDetError, match=r"cannot write .*last \(File too large\)"),
        replacing_folder(folder) as writing,
    ):
        (writing / "a.txt").write_text("new" * 1000)
    assert (folder / "a.txt").read_text() == "old" and names(tmp_path) == ["last", "x.txt"]


@pytest.mark.parametrize("target", [replacing, replacing_folder])
def test_parent_that_is_a_file(tmp_path, target):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "x", tmp_path / "file" / "deep" / "x"):
        with pytest.raises(PointDetError, match="cannot write .*/x .*; free space or choose"), target(path):
            pytest.fail("the block runs although nothing can be written")
    assert names(tmp_path) == ["file"]


def test_file_cannot_replace_a_folder(tmp_path):
    folder_with(tmp_path / "x.txt", "old")
    with pytest.raises(PointDetError, match=r"cannot write .*x.txt \(Is a directory\)"):
        write_text(tmp_path / "x.txt", "new")
    assert names(tmp_path) == ["x.txt"] and names(tmp_path / "x.txt") == ["a.txt"]


def test_folder_is_replaced_after_the_block(tmp_path):
    folder = tmp_path / "deep" / "last"
    for step in ("1", "2"):
        with replacing_folder(folder) as writing:
            (writing / f"{step}.txt").write_text(step)
            assert (names(folder) if folder.exists() else None) == (["1.txt"] if step == "2" else None)
    assert names(folder) == ["2.txt"] and names(folder.parent) == ["last"]


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt(), RuntimeError("no such layer")])
def test_error_in_the_block_leaves_the_old_folder(tmp_path, error):
    folder = folder_with(tmp_path / "last", "old")
    with pytest.raises(type(error)) as raised, replacing_folder(folder) as writing:
        (writing / "a.txt").write_text("half")
        raise error
    assert raised.value is error
    assert (folder / "a.txt").read_text() == "old" and names(tmp_path) == ["last"]


def test_files_of_an_interrupted_writer_are_not_mixed_in(tmp_path):
    folder_with(tmp_path / ".last.writing", "half")
    folder_with(tmp_path / ".last.old", "older")
    folder = folder_with(tmp_path / "last", "old")
    with replacing_folder(folder) as writing:
        assert names(writing) == []
        (writing / "b.txt").write_text("new")
    assert names(folder) == ["b.txt"] and names(tmp_path) == ["last"]


def test_interrupted_replacement_is_finished(tmp_path):
    """Killed between the two renames: the previous content has its name again."""
    folder = folder_with(tmp_path / "last", "old")

    class Killed(BaseException):
        pass

    def killed_at_the_second_rename(source, target):
        if target == folder:
            raise Killed
        os.rename(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pathlib.Path.rename", killed_at_the_second_rename)
        with pytest.raises(Killed), replacing_folder(folder) as writing:
            (writing / "a.txt").write_text("new")
    assert names(tmp_path) == [".last.old"]
    finish_replacement(folder)
    assert (folder / "a.txt").read_text() == "old" and names(tmp_path) == ["last"]


def test_finished_replacements_are_not_changed(tmp_path):
    folder_with(tmp_path / ".epoch_2.old", "2")
    folder_with(tmp_path / ".last.old", "1")
    folder_with(tmp_path / "last", "2")
    folder_with(tmp_path / ".best.writing", "half")
    finish_replacements(tmp_path)
    assert names(tmp_path) == [".best.writing", ".last.old", "epoch_2", "last"]
    assert (tmp_path / "epoch_2" / "a.txt").read_text() == "2"
    assert (tmp_path / "last" / "a.txt").read_text() == "2"
    finish_replacement(tmp_path / "nothing")
    finish_replacements(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_everything_is_on_the_disk_before_and_after_the_rename(tmp_path, monkeypatch):
    """A crash of the machine, not only of the process, loses nothing: folders are synchronised too."""
    events, fsync, rename = [], os.fsync, Path.rename

    def record_sync(descriptor):
        events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def record_rename(path, target):
        events.append(f"{path.name} -> {Path(target).name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(Path, "rename", record_rename)
    with replacing_folder(tmp_path / "last") as writing:
        (writing / "a.txt").write_text("x")
    assert events == ["a.txt", ".last.writing", ".last.writing -> last", tmp_path.name]
    events.clear()
    write_text(tmp_path / "b.txt", "x")
    assert events == [".writing.b.txt", tmp_path.name]
