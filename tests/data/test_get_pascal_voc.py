# SPDX-License-Identifier: Apache-2.0
"""The download script, with a local folder as the server and archives of a few bytes."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "src" / "tools" / "get_pascal_voc.sh"
LISTS = {
    "VOCtrainval_06-Nov-2007.tar": "VOC2007/ImageSets/Main/trainval.txt",
    "VOCtest_06-Nov-2007.tar": "VOC2007/ImageSets/Main/test.txt",
    "VOCtrainval_11-May-2012.tar": "VOC2012/ImageSets/Main/trainval.txt",
}
# Resumes where the file ends, as curl --continue-at does.
CURL = """#!/usr/bin/env bash
while [[ $# -gt 1 ]]; do [[ $1 == --output ]] && output=$2; shift; done
echo "$1" >> requests
tail -c +"$(($(stat -c %s "$output" 2>/dev/null || echo 0) + 1))" "$SERVER/$(basename "$1")" >> "$output"
"""


class Server:
    """A copy of the script with the MD5 sums of small archives, and a curl that copies them from a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.data.mkdir()
        text = SCRIPT.read_text()
        for archive, name in LISTS.items():
            member = folder / "VOCdevkit" / name
            member.parent.mkdir(parents=True, exist_ok=True)
            member.write_text("000001\n000002\n")
            with tarfile.open(folder / archive, "w") as tar:
                tar.add(member, f"VOCdevkit/{name}")
            checksum = hashlib.md5((folder / archive).read_bytes()).hexdigest()
            text, count = re.subn(rf"({re.escape(archive)}) [0-9a-f]{{32}}\n", rf"\1 {checksum}\n", text)
            assert count == 1
        self.script = folder / "script.sh"
        self.script.write_text(text)
        (folder / "bin").mkdir()
        (folder / "bin" / "curl").write_text(CURL)
        (folder / "bin" / "curl").chmod(0o755)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "SERVER": str(self.folder),
        }
        command = ["bash", str(self.script), *arguments]
        return subprocess.run(command, check=False, env=environment, capture_output=True, text=True)

    def requests(self) -> list[str]:
        path = self.data / "requests"
        return path.read_text().split() if path.exists() else []


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


def test_archives_are_downloaded_and_unpacked_once(server: Server) -> None:
    done = server.run(str(server.data))
    assert done.returncode == 0, done.stderr
    assert [Path(request).name for request in server.requests()] == list(LISTS)
    assert all(
        request.startswith("http://host.robots.ox.ac.uk/pascal/VOC/voc20") for request in server.requests()
    )
    for archive, name in LISTS.items():
        assert (server.data / "VOCdevkit" / name).read_text() == "000001\n000002\n"
        assert not (server.data / archive).exists()
    assert done.stdout.count("     2 images in VOCdevkit/") == 3
    assert server.run(str(server.data)).returncode == 0
    assert len(server.requests()) == 3


def test_an_interrupted_download_is_resumed(server: Server) -> None:
    first, second, _ = LISTS
    (server.data / first).write_bytes((server.folder / first).read_bytes()[:1000])
    (server.data / second).write_bytes((server.folder / second).read_bytes())
    assert server.run(str(server.data)).returncode == 0
    assert second not in [Path(request).name for request in server.requests()]
    assert (server.data / "VOCdevkit" / LISTS[first]).exists()


def test_a_damaged_archive_is_deleted(server: Server) -> None:
    first = next(iter(LISTS))
    (server.folder / first).write_bytes(b"not found")
    done = server.run(str(server.data))
    assert done.returncode == 1
    assert f"{first} is damaged" in done.stderr
    assert not (server.data / first).exists() and not (server.data / "VOCdevkit").exists()


def test_usage(server: Server) -> None:
    assert server.run("--help").returncode == 0
    for arguments in ((), ("a", "b"), ("--fast",)):
        done = server.run(*arguments)
        assert done.returncode == 2
        assert done.stdout.startswith("usage: get_pascal_voc.sh FOLDER")
