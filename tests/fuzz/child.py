# SPDX-License-Identifier: Apache-2.0
"""Reads mutated input in this process, with bounded memory and time, and writes what happened as JSON lines.

By hand: python tests/fuzz/child.py CORPUS READER INPUTS REPORT [FIRST] [SEED], where `corpus.write` made CORPUS.
"""

import faulthandler
import json
import logging
import os
import resource
import shutil
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from fuzz import mutations
from fuzz.readers import MISBEHAVING, READERS

SECONDS = int(os.environ.get("POINTDET_FUZZ_SECONDS", "10"))  # for one input; it takes milliseconds
MEMORY = 1 << 30  # bytes of address space that the inputs may take
MAX_MESSAGE = 1500
# What a reader may not do; `open` for writing is checked by the path.
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "os.fork")


def expected() -> tuple[type[Exception], ...]:
    from pointdet.data.images import ImageFault
    from pointdet.errors import PointDetError

    return PointDetError, ImageFault


def run(corpus: Path, reader_name: str, count: int, report: Path, first: int, seed: int) -> None:
    reader = READERS.get(reader_name, MISBEHAVING)
    seeds = [path.read_bytes() for path in sorted((corpus / reader_name).iterdir())]
    folder = report.parent / f"{report.stem} input"
    refusals = expected()
    if not (folder.parent / "corpus").exists():
        (folder.parent / "corpus").symlink_to(corpus)  # for readers of several files
    logging.getLogger("pointdet").addHandler(_Formatting())
    logging.getLogger("pointdet").propagate = False
    for data in seeds:  # what is imported and allocated once does not count
        _emptied(folder)
        faulthandler.dump_traceback_later(6 * SECONDS, exit=True)
        with suppress(Exception):  # some are not whole; their mutations are judged below
            reader.read(folder, data)
    faulthandler.cancel_dump_traceback_later()
    _bound_memory()
    violations: list[str] = []
    _watch(violations, report.parent)
    captured = _captured_output(report.parent)
    with report.open("a", encoding="utf-8") as lines:
        for index in range(first, count):
            name = f"{seed} {reader_name} {index}"
            data = mutations.mutated(seeds, reader.tokens, reader.is_json, name)
            _emptied(folder)
            # The next line stands for this input if the process dies.
            lines.write(json.dumps({"index": index}) + "\n")
            lines.flush()
            faulthandler.dump_traceback_later(SECONDS, exit=True, file=lines)
            try:
                reader.read(folder, data)
                kind, detail = "read", ""
            except refusals as error:
                kind, detail = _judged(str(error), reader.named)
            except BaseException:  # noqa: BLE001  whatever it is, a user would see it
                kind, detail = "traceback", traceback.format_exc(limit=-6)
            faulthandler.cancel_dump_traceback_later()
            if violations:
                kind, detail = "code", violations.pop()
            elif kind != "traceback" and (printed := os.pread(captured, 4000, 0)):
                kind, detail = "printed", printed.decode(errors="replace")
            violations.clear()
            os.ftruncate(captured, 0)
            os.lseek(captured, 0, os.SEEK_SET)
            if (Path.cwd() / "code-was-run").exists():
                kind, detail = "code", "a file was written"
            lines.write(json.dumps({"index": index, "kind": kind, "detail": detail}) + "\n")
            lines.flush()


def _judged(message: str, named: tuple[str, ...]) -> tuple[str, str]:
    """Whether the sentence of a refusal is one: it names the file, and has no control characters."""
    if not any(name in message for name in named):
        return "message", f"names no file: {message}"
    if len(message) > MAX_MESSAGE or any(ord(c) < 32 for c in message):
        return "message", f"long or with control characters: {message!r}"
    return "refused", message


class _Formatting(logging.Handler):
    """Formats every line of the log, as a handler that prints it."""

    def emit(self, record: logging.LogRecord) -> None:
        self.format(record)


def _emptied(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _bound_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))


def _watch(violations: list[str], folder: Path) -> None:
    """Record calls that start a program or connect, and files opened for writing outside of `folder`."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in FORBIDDEN:
            violations.append(f"{event} {arguments!r}"[:300])
        elif event == "open" and isinstance(arguments[0], str | bytes):
            path, flags = os.fsdecode(arguments[0]), arguments[2]
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and not os.path.abspath(path).startswith((str(folder), "/dev/", "/tmp/")):
                violations.append(f"open {path!r}")

    sys.addaudithook(hook)


def _captured_output(folder: Path) -> int:
    """Send what this process and its C libraries print to a file, and return its descriptor."""
    captured = os.open(folder / f"output {os.getpid()}", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    sys.stdout.flush()
    for descriptor in (1, 2):
        os.dup2(captured, descriptor)
    return captured


if __name__ == "__main__":
    corpus, reader_name, count, report, *more = sys.argv[1:]
    first, seed = (*map(int, more), *(0, 1)[len(more) :])
    os.chdir(Path(report).parent)
    run(Path(corpus).resolve(), reader_name, int(count), Path(report).resolve(), first, seed)
