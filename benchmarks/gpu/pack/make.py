# SPDX-License-Identifier: Apache-2.0
"""Pack Python 3.10, NNabla, its CUDA extension and CUDA's libraries for a GPU machine without network.

python3.10 benchmarks/gpu/pack/make.py: writes .gpu_kit/manifest.json and .gpu_kit/part-00, part-01 and so on,
each small enough for an upload. unpack.py puts them together on the GPU machine. Versions are those of the
project's requirements files. CUDA libraries keep only the machine code of one GPU generation (--sm).

Needs x86-64 Linux, Python 3.10 with a shared libpython (pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared), pip,
gcc, liblz4, 5 GB of memory and 3 GB of disk. The same files give the same pack.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from chunks import MIB, Chunks
from interpreter import add_interpreter, library_of_linker
from lz4 import Lz4
from parts import write_parts
from sources import ROOT, download, find_python, pinned, wheel_file
from tree import Tree
from wheels import CUDA, FULL_CUDA, PACKAGES, STAND_INS, add_stand_ins, add_wheel


def main() -> int:
    args = parse()
    started = time.monotonic()
    os.nice(10)  # compression takes minutes
    python = find_python()
    print(f"Python {python.version} of {python.prefix}")
    packages = pinned((*PACKAGES, *args.extra))
    cuda = pinned(CUDA + (FULL_CUDA if args.full else ()))
    store = args.cache / "wheels"
    store.mkdir(parents=True, exist_ok=True)
    download(packages + cuda, python.program, store)

    tree = Tree()
    add_interpreter(tree, python)
    lz4_file = library_of_linker("liblz4.so.1")
    if lz4_file is None:
        print("this machine has no liblz4: the pack becomes larger")
    else:
        tree.add("deps/liblz4.so.1", lz4_file.resolve().read_bytes(), executable=True)
    lz4 = Lz4(str(lz4_file)) if lz4_file is not None else None
    for wheel in packages + cuda:
        add_wheel(tree, wheel_file(wheel, store), args.sm, lz4)
    if not args.full:
        add_stand_ins(tree)

    chunks = Chunks(tree)
    tree.files.clear()  # frees the memory
    compressed = chunks.compress(args.jobs, args.cache / "xz")
    description = {
        "sm": args.sm,
        "python": python.version,
        "wheels": sorted(packages + cuda),
        "stand_ins": [] if args.full else sorted(STAND_INS),
    }
    files = write_parts(chunks, compressed, args.folder, int(args.part_mib * MIB), description)
    report(chunks, compressed)
    size = sum(map(len, compressed))
    print(
        f"{len(chunks.files)} files, {size / MIB:.1f} MiB in {len(files)} parts of {files[0].stat().st_size / MIB:.1f} "
        f"MiB in {args.folder}, {time.monotonic() - started:.0f} s"
    )
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", type=Path, nargs="?", default=ROOT / ".gpu_kit", help="of the parts (default: .gpu_kit)"
    )
    parser.add_argument(
        "--sm", type=int, default=90, help="compute capability of the GPU, times 10 (default: 90, Hopper)"
    )
    parser.add_argument("--part-mib", type=float, default=54, help="largest part in MiB (default: 54)")
    parser.add_argument(
        "--full",
        action="store_true",
        help="also cuFFT, cuSOLVER, cuSPARSE and NVRTC; otherwise stand-ins that answer 'not supported'",
    )
    parser.add_argument(
        "--extra", action="append", default=[], metavar="NAME==VERSION", help="one more wheel; repeatable"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="threads (default: all cores)")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir(), "pointdet_gpu_pack"),
        help="folder of wheels and compressed chunks (default: %(default)s)",
    )
    return parser.parse_args()


def report(chunks: Chunks, compressed: list[bytes]) -> None:
    """Print the size of each component: its share of the chunks that contain it."""
    sizes: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for groups, content, packed in zip(chunks.groups, chunks.contents, compressed, strict=True):
        for group, size in groups.items():
            sizes[group][0] += size / 1e6
            sizes[group][1] += len(packed) * size / len(content) / 1e6
    print(f"\n{'component':<28}{'MB':>9}{'in the pack':>13}")
    for group, (size, packed) in sorted(sizes.items(), key=lambda item: -item[1][1]):
        if packed > 0.2:
            print(f"{group:<28}{size:9.1f}{packed:13.1f}")


if __name__ == "__main__":
    raise SystemExit(main())
