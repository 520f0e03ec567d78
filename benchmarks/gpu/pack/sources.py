# SPDX-License-Identifier: Apache-2.0
"""Where the files of a pack come from: a Python 3.10 of this machine, and wheels of the pinned versions."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[3]
REQUIREMENTS = (
    "requirements.txt",
    "requirements-mpi.txt",
    "requirements-onnx.txt",
    "requirements-dev.txt",
    "requirements-cuda120.txt",
)
DESCRIBE = (
    "import sys, json, sysconfig as s; print(json.dumps([sys.version_info[:3], sys.base_prefix, "
    "s.get_config_var('INSTSONAME'), s.get_config_var('LIBDIR')]))"
)


class Interpreter(NamedTuple):
    """A Python 3.10."""

    program: str
    version: str
    prefix: Path
    library: Path  # libpython


def find_python() -> Interpreter:
    """The newest Python 3.10 of pyenv, or else python3.10 of PATH. It must have libpython as a library."""
    for program in _candidates():
        done = subprocess.run([program, "-c", DESCRIBE], check=False, capture_output=True, text=True)
        if done.returncode:
            continue
        version, prefix, library, folder = json.loads(done.stdout)
        if version[:2] == [3, 10] and ".so" in library:
            return Interpreter(program, ".".join(map(str, version)), Path(prefix), Path(folder, library))
    sys.exit("error: no Python 3.10 with a shared libpython; install one with pyenv, or put it on PATH")


def _candidates() -> list[str]:
    found = []
    if shutil.which("pyenv"):
        root = subprocess.run(["pyenv", "root"], check=True, capture_output=True, text=True).stdout.strip()
        folders = Path(root, "versions").glob("3.10.*")
        found += [str(f / "bin" / "python3.10") for f in sorted(folders, key=_version_key, reverse=True)]
    on_path = shutil.which("python3.10")
    return [*found, on_path] if on_path else found


def _version_key(folder: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", folder.name)]


def pinned(names: Iterable[str], root: Path = ROOT) -> list[str]:
    """ "name==version" for each name, with the version of the project's requirements files.

    Names that have a version are not changed.
    """
    pins: dict[str, str] = {}
    for file in REQUIREMENTS:
        text = (root / file).read_text(encoding="utf-8")
        for name, version in re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;#]+)", text, re.MULTILINE):
            pins.setdefault(_normal(name), version)
    wheels = []
    for name in names:
        if "==" not in name and _normal(name) not in pins:
            sys.exit(f"error: {name} has no version in {', '.join(REQUIREMENTS)}; give {name}==VERSION")
        wheels.append(name if "==" in name else f"{name}=={pins[_normal(name)]}")
    return wheels


def download(wheels: Iterable[str], python: str, folder: Path) -> None:
    """Download the wheels that are not in the folder yet."""
    missing = [wheel for wheel in wheels if wheel_file(wheel, folder) is None]
    if not missing:
        return
    print("pip download", *missing, flush=True)
    command = [python, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    # A constraint file of this machine must not change a pinned version.
    done = subprocess.run([*command, *missing], check=False, env=os.environ | {"PIP_CONSTRAINT": ""})
    still = [wheel for wheel in missing if wheel_file(wheel, folder) is None]
    if done.returncode or still:
        sys.exit(f"error: pip download failed for {' '.join(still)}")


def wheel_file(wheel: str, folder: Path) -> Path | None:
    """The file of a wheel "name==version" in the folder."""
    name, version = wheel.split("==")
    pattern = re.compile(
        rf"{re.sub(r'[-_.]+', '[-_.]+', _normal(name))}-{re.escape(version)}-.*\.whl$", re.IGNORECASE
    )
    return next((file for file in sorted(folder.iterdir()) if pattern.match(file.name)), None)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
