# SPDX-License-Identifier: Apache-2.0
"""The wheels of the pack: Python packages, and CUDA's libraries without the code of other GPUs."""

from __future__ import annotations

import hashlib
import re
import stat
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from fatbin import prune
from lz4 import Lz4
from tree import SITE, Tree

# What the programs and the tests of the project need, with everything that these packages import.
PACKAGES = (
    "nnabla",
    "numpy",
    "scipy",
    "h5py",
    "opencv-python-headless",
    "pycocotools",
    "faster-coco-eval",
    "PyYAML",
    "tqdm",
    "mpi4py",
    "openmpi",
    "protobuf",
    "pillow",
    "imageio",
    "six",
    "configparser",
    "contextlib2",
    "ply",
    "certifi",
    "pydantic",
    "pydantic-core",
    "annotated-types",
    "typing-extensions",
    "typing-inspection",
    "tensorboardX",
    "packaging",
    "safetensors",
    "onnx",
    "pytest",
    "pytest-xdist",
    "execnet",
    "iniconfig",
    "pluggy",
    "pygments",
    "exceptiongroup",
    "tomli",
)
CUDA = (
    "nnabla-ext-cuda120",
    "nvidia-cuda-runtime-cu12",
    "nvidia-cublas-cu12",
    "nvidia-cudnn-cu12",
    "nvidia-curand-cu12",
    "nvidia-nccl-cu12",
)
# Libraries that no detector uses. Without --full, STAND_INS take the place of those that NNabla is linked to.
FULL_CUDA = (
    "nvidia-cuda-nvrtc-cu12",
    "nvidia-cufft-cu12",
    "nvidia-cusolver-cu12",
    "nvidia-cusparse-cu12",
    "nvidia-nvjitlink-cu12",
)

SKIPPED = re.compile(
    r"(^|/)(tests?|__pycache__)/|^nnabla/bin/|^cv2/data/.*\.xml$|\.pyi$|/[^/]+\.a$|^imageio/resources/|"
    r"^PIL/_avif|^pillow\.libs/libavif|^mpi4py/MPI\.mpich|/LICENSES\.md$"
)
# Libraries of NVIDIA's wheels that are carried. Not: cuDNN's adv_* (RNN, attention), nvblas, cusolverMg.
CARRIED = re.compile(
    r"lib(cudart|cublas|cublasLt|curand|cudnn|cudnn_ops_infer|cudnn_ops_train|cudnn_cnn_infer|cudnn_cnn_train|"
    r"cufft|cusolver|cusparse|nvJitLink|nvrtc|nvrtc-builtins|nccl)\.so\.[0-9.]+$"
)
LARGE = 1 << 20  # bytes: smaller libraries are not pruned

# Tables of cuRAND for its MT19937 and quasi-random generators, (start, end) in this build of the library.
# NNabla uses XORWOW. Random numbers do not compress: 40 MB.
CURAND = "libcurand.so.10"
CURAND_SHA256 = "41a8780d7760aa91cca7232d085f55183c7e6cfaecabc2f32e719260831035fc"
CURAND_TABLES = ((0x120080, 0x14A0080), (0x48AB320, 0x5C33320))

# Library -> status "not supported", functions. NNabla calls them in FFT, batch_inv and batch_cholesky only.
STAND_INS = {
    "libcufft.so.11": (
        16,
        (
            "cufftCreate",
            "cufftDestroy",
            "cufftSetAutoAllocation",
            "cufftSetWorkArea",
            "cufftXtExec",
            "cufftXtMakePlanMany",
        ),
    ),
    "libcusolver.so.11": (
        9,
        ("cusolverDnCreate", "cusolverDnDestroy", "cusolverDnDpotrfBatched", "cusolverDnSpotrfBatched"),
    ),
}


def add_wheel(tree: Tree, wheel: Path, sm: int, lz4: Lz4 | None) -> None:
    """Add the files of a wheel where pip would install them. Libraries of CUDA are pruned for `sm`."""
    of_cuda = wheel.name.startswith(("nvidia_", "nnabla_ext"))
    for name, mode, data in _files(wheel):
        path = _installed_path(name)
        if path is None or (name.startswith("nvidia/") and not CARRIED.match(Path(name).name)):
            continue
        if stat.S_ISLNK(mode):
            tree.links[path] = data.decode()
            continue
        library = ".so" in Path(path).name
        executable = library or bool(mode & 0o111) or path.startswith("python/bin/")
        group = re.split(r"[-.]", wheel.name)[0]
        if name.endswith(".dist-info/RECORD") and of_cuda:
            data = _record_of_carried(data)
        if of_cuda and library and len(data) > LARGE:
            pruned = prune(data, sm, lz4)
            if Path(path).name == CURAND and hashlib.sha256(data).hexdigest() == CURAND_SHA256:
                for start, end in CURAND_TABLES:
                    pruned.clear(start, end)
            zeros = sum(end - start for start, end in pruned.zeros)
            print(f"{Path(path).name}: {len(data) / 1e6:.0f} MB, {zeros / 1e6:.0f} MB removed", flush=True)
            tree.add(path, pruned, executable, group)
        else:
            tree.add(path, data, executable, group)


def _files(wheel: Path) -> Iterator[tuple[str, int, bytes]]:
    """Name, mode and content of the files of a wheel, in the order of names."""
    with zipfile.ZipFile(wheel) as archive:
        for info in sorted(archive.infolist(), key=lambda info: info.filename):
            if not info.is_dir() and not SKIPPED.search(info.filename):
                yield info.filename, info.external_attr >> 16, archive.read(info)


def _installed_path(name: str) -> str | None:
    """Where pip installs a file of a wheel; None for headers."""
    match = re.match(r"[^/]+\.data/(\w+)/(.*)$", name)
    if match is None:
        return SITE + name
    folders = {"purelib": SITE, "platlib": SITE, "data": "python/", "scripts": "python/bin/"}
    return folders[match[1]] + match[2] if match[1] in folders else None


def _record_of_carried(record: bytes) -> bytes:
    """The list of installed files without those that are not in the pack."""
    lines = record.decode().splitlines(keepends=True)
    return "".join(
        line
        for line in lines
        if not line.startswith("nvidia/") or CARRIED.match(Path(line.split(",")[0]).name)
    ).encode()


def add_stand_ins(tree: Tree) -> None:
    """Build the libraries of STAND_INS with gcc."""
    for library, (status, functions) in STAND_INS.items():
        with tempfile.TemporaryDirectory() as folder:
            source = "".join(f"int {function}(void) {{ return {status}; }}\n" for function in functions)
            Path(folder, "source.c").write_text(source, encoding="utf-8")
            Path(folder, "versions").write_text(f"{library} {{ global: *; }};\n", encoding="utf-8")
            subprocess.run(
                ["gcc", "-O1", "-shared", "-fPIC", "-nostdlib", "-s", "-Wl,--build-id=none"]
                + [f"-Wl,-soname,{library}", "-Wl,--version-script=versions", "-o", "library.so", "source.c"],
                cwd=folder,
                check=True,
            )
            tree.add(f"stand_ins/{library}", Path(folder, "library.so").read_bytes(), True, "stand-ins")
