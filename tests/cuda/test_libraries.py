# SPDX-License-Identifier: Apache-2.0
"""The CUDA libraries: all that the extension needs is pinned, loaded from the wheels, and named if it is missing."""

import importlib.util
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from cuda_stand_ins import compiled
from packaging.requirements import Requirement

from pointdet.cuda.libraries import LIBRARIES, PINS, missing

ROOT = Path(__file__).parents[2]
# readelf -d of libnnabla_cuda-120_8.so and the modules of nnabla-ext-cuda120 1.39.0.
NEEDED = (
    *("libcuda.so.1", "libcudart.so.12", "libcublas.so.12", "libcusolver.so.11", "libcurand.so.10"),
    *("libcufft.so.11", "libcudnn.so.8", "libnnabla.so", "libnnabla_cuda-120_8.so"),
    *("libstdc++.so.6", "libm.so.6", "libgcc_s.so.1", "libc.so.6", "ld-linux-x86-64.so.2"),
)
OPENED_BY_NAME = ("libnccl.so.2",)
# The C library and compiler runtime, the driver, NNabla itself. libz is needed by cuDNN.
OTHERS = re.compile(
    r"(lib(c|m|dl|rt|z|pthread|gcc_s|stdc\+\+|cuda|nnabla|nnabla_cuda-120_8)|ld-linux-x86-64)\.so(\.\d+)?"
)


def not_covered(needed):
    return {name for name in needed if not OTHERS.fullmatch(name)} - {name for name, _ in LIBRARIES}


def needed_by(path):
    listed = subprocess.run(["readelf", "-d", path], check=True, capture_output=True, text=True).stdout
    return re.findall(r"\(NEEDED\).*\[(.+)\]", listed)


def test_every_library_of_the_extension_is_covered():
    assert not not_covered([*NEEDED, *OPENED_BY_NAME])
    assert not_covered(["libnvToolsExt.so.1", "libcudnn.so.9"]) == {"libnvToolsExt.so.1", "libcudnn.so.9"}


@pytest.mark.skipif(shutil.which("readelf") is None, reason="no readelf (binutils)")
def test_the_installed_extension_needs_what_is_recorded():
    spec = importlib.util.find_spec("nnabla_ext.cuda")
    if spec is None:
        pytest.skip("nnabla-ext-cuda120 is not installed: make setup-cuda")
    files = [file for file in Path(spec.origin).parents[1].rglob("*.so") if "cpu" not in file.parts]
    assert {name for file in files for name in needed_by(file)} == set(NEEDED)


@pytest.mark.skipif(shutil.which("readelf") is None, reason="no readelf (binutils)")
def test_the_installed_wheels_need_nothing_else_and_are_in_order():
    """Each library stands after those that it needs."""
    loaded = set()
    for name, wheel in LIBRARIES:
        try:
            files = distribution(wheel).files
        except PackageNotFoundError:
            pytest.skip(f"{wheel} is not installed: make setup-cuda")
        (path,) = [file.locate() for file in files if file.name == name]
        needed = needed_by(path)
        assert not not_covered(needed)
        assert {n for n in needed if not OTHERS.fullmatch(n)} <= loaded
        loaded.add(name)


def pins():
    lines = (ROOT / PINS).read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {requirement.name: str(requirement.specifier) for requirement in found}


def test_pins_are_exact_and_cover_every_library():
    assert set(pins()) == {"nnabla-ext-cuda120", *(wheel for _, wheel in LIBRARIES)}
    assert all(re.fullmatch(r"==[\d.]+", version) for version in pins().values())


def test_pins_are_in_the_ranges_of_the_extra():
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    (listed,) = re.findall(r'"cuda120": \[(.+?)\]', text, re.DOTALL)
    ranges = {r.name: r.specifier for r in map(Requirement, re.findall(r'"(.+?)"', listed))}
    assert set(ranges) == set(pins())
    assert all(ranges[name].contains(version.removeprefix("==")) for name, version in pins().items())


@pytest.fixture
def wheel(tmp_path):
    """An installed wheel with one library, which the linker does not find by itself."""
    folder = tmp_path / "site" / "nvidia" / "curand" / "lib"
    folder.mkdir(parents=True)
    compiled("int curandCreateGenerator(void) { return 7; }", "libcurand.so.10", folder)
    information = tmp_path / "site" / "nvidia_curand_cu12-10.3.2.106.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: nvidia-curand-cu12\nVersion: 10.3.2.106\n"
    )
    (information / "RECORD").write_text("nvidia/curand/lib/libcurand.so.10,,\n")
    return tmp_path / "site"


def test_the_linker_finds_the_library_of_a_wheel_by_its_name(python, wheel):
    code = (
        "import ctypes\nfrom pointdet.cuda.libraries import preload\n"
        "print('\\n'.join(preload()))\nprint(ctypes.CDLL('libcurand.so.10').curandCreateGenerator())"
    )
    *paths, number = python(code, [wheel]).stdout.splitlines()
    assert str(wheel / "nvidia/curand/lib/libcurand.so.10") in paths and number == "7"


def test_a_library_of_a_wheel_that_cannot_be_loaded(python, wheel):
    (wheel / "nvidia/curand/lib/libcurand.so.10").write_text("cut off")
    result = python("from pointdet.cuda.libraries import preload; preload()", [wheel])
    assert "PointDetError: " in result.stderr and "libcurand.so.10 cannot be loaded" in result.stderr
    assert f"install it again with make setup-cuda (or pip install -r {PINS})" in result.stderr


def test_the_error_names_the_library_its_wheel_and_the_file_with_the_pins():
    error = missing(ImportError("libcudnn.so.8: cannot open shared object file: No such file or directory"))
    assert str(error) == (
        "the library libcudnn.so.8 of nvidia-cudnn-cu12 is missing; install the versions of "
        "requirements-cuda120.txt with make setup-cuda (or pip install -r requirements-cuda120.txt)"
    )
    assert "the library libz.so.1 is missing" in str(
        missing(OSError("libz.so.1: cannot open shared object file"))
    )
    assert missing(ImportError("undefined symbol: cublasCreate_v2")) is None


def test_no_library_is_loaded_globally(python, wheel):
    """NNabla's extension would write to the functions of a global NCCL."""
    code = (
        "import ctypes\nfrom pointdet.cuda.libraries import preload\npreload()\n"
        "print(hasattr(ctypes.CDLL(None), 'curandCreateGenerator'))"
    )
    assert python(code, [wheel]).stdout == "False\n"
