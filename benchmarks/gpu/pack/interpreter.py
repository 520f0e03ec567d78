# SPDX-License-Identifier: Apache-2.0
"""The interpreter in the pack: program, libpython, standard library, and libraries of this distribution."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sources import Interpreter
from tree import Tree

SKIPPED_FOLDERS = {
    "__pycache__",
    "ensurepip",
    "idle_test",
    "idlelib",
    "lib2to3",
    "site-packages",
    "test",
    "tests",
    "tkinter",
    "turtledemo",
}
SKIPPED_FILES = (".pyc", ".a", ".exe")
SKIPPED_MODULES = re.compile(r"(_test\w*|_ctypes_test|_tkinter|xxlimited\w*|nis|_xx\w*)\.cpython")
INSTALLERS = re.compile(r"(pip|setuptools|pkg_resources|_distutils_hack|distutils-precedence)")
# The GPU machine has its own glibc. All other libraries are carried, and used only if that machine has none.
GLIBC = re.compile(r"(ld-linux.*|lib(c|m|pthread|dl|rt|util|resolv|nsl|anl|mvec))\.so\.\d+$")
OF_WHEELS = ("libstdc++.so.6", "libgcc_s.so.1", "libgomp.so.1")  # that compiled modules of wheels need


def add_interpreter(tree: Tree, python: Interpreter) -> None:
    tree.add("python/bin/python3.10", (python.prefix / "bin" / "python3.10").read_bytes(), executable=True)
    for name in ("python", "python3"):
        tree.links[f"python/bin/{name}"] = "python3.10"
    tree.add(f"python/lib/{python.library.name}", _without_debug(python.library.read_bytes()), True)
    needed = _needed_libraries(python.library)
    standard = python.prefix / "lib" / "python3.10"
    for path in _walk(standard):
        if path.parent.name == "lib-dynload":
            if SKIPPED_MODULES.match(path.name):
                continue
            needed |= _needed_libraries(path)
            tree.add(_place(path, python), _without_debug(path.read_bytes()), executable=True)
        else:
            tree.add(_place(path, python), path.read_bytes())
    site = standard / "site-packages"
    installers = [path for path in site.iterdir() if INSTALLERS.match(path.name)]
    for folder in (python.prefix / "include" / "python3.10", *installers):
        for path in _walk(folder):
            tree.add(_place(path, python), path.read_bytes())
    needed |= {name: path for name in OF_WHEELS if (path := library_of_linker(name)) is not None}
    for name, path in sorted(needed.items()):
        if not GLIBC.match(name) and not name.startswith("libpython"):
            tree.add(f"deps/{name}", path.resolve().read_bytes(), executable=True)


def library_of_linker(name: str) -> Path | None:
    """The path of a library that the dynamic linker knows."""
    known = subprocess.run(["/sbin/ldconfig", "-p"], check=True, capture_output=True, text=True).stdout
    match = re.search(rf"^\s*{re.escape(name)} .*x86-64.* => (/\S+)", known, re.MULTILINE)
    return Path(match[1]) if match else None


def _walk(top: Path) -> Iterator[Path]:
    """The files to carry: `top` itself, or all files below it."""
    if top.is_file():
        yield top
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(
            f for f in folders if f not in SKIPPED_FOLDERS and not f.startswith("config-3.10")
        )
        for name in sorted(names):
            path = Path(folder, name)
            if not name.endswith(SKIPPED_FILES) and not path.is_symlink():
                yield path


def _place(path: Path, python: Interpreter) -> str:
    return f"python/{path.relative_to(python.prefix)}"


def _needed_libraries(library: Path) -> dict[str, Path]:
    """Name -> path of all libraries that a library is linked to."""
    linked = subprocess.run(["ldd", library], check=True, capture_output=True, text=True).stdout
    return {name: Path(path) for name, path in re.findall(r"^\s*(\S+) => (/\S+)", linked, re.MULTILINE)}


def _without_debug(library: bytes) -> bytes:
    """The library without debug information, if this machine has `strip`."""
    if shutil.which("strip") is None:
        return library
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "library.so")
        file.write_bytes(library)
        subprocess.run(["strip", "--strip-debug", file], check=True)
        return file.read_bytes()
