# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's driver, as a stand-in: none, too old, and the cards that it shows."""

import pytest

REQUIRE = "from pointdet.cuda import driver; driver.require()"
SHOWN = "from pointdet.cuda import driver; print(driver.uuids())"


def test_no_driver(python, no_driver):
    result = python(REQUIRE)
    assert "PointDetError: no NVIDIA driver (libcuda.so.1: cannot open shared object file" in result.stderr
    assert "use the CPU with --gpus -1 or --extension_module cpu" in result.stderr


@pytest.mark.parametrize("version", ["12000", "12020", "13000"])
def test_drivers_for_cuda_12_and_later(python, driver, version):
    assert python(REQUIRE, driver=driver, STUB_VERSION=version).returncode == 0


def test_old_driver(python, driver):
    result = python(REQUIRE, driver=driver, STUB_VERSION="11080")
    assert (
        "PointDetError: the NVIDIA driver is for CUDA 11.8, and NNabla's extension needs CUDA 12; install driver "
        "525.60.13 or later, or use the CPU"
    ) in result.stderr


@pytest.mark.parametrize(
    "cards, uuids",
    [("GPU-a GPU-b", "('GPU-a', 'GPU-b')"), ("- GPU-b -", "('GPU-b',)"), ("", "()")],
)
def test_cards_that_may_be_used(python, driver, cards, uuids):
    """NVML counts also those that the device cgroup of a job hides."""
    assert python(SHOWN, driver=driver, STUB_CARDS=cards).stdout.strip() == uuids


def test_cards_are_unknown_without_nvml(python, driver, no_driver):
    assert python(SHOWN, driver=driver).stdout.strip() == "None"  # cannot be initialised
    assert python(SHOWN).stdout.strip() == "None"


def test_reason_of_a_failure(python, driver):
    code = "from pointdet.cuda import driver; print(driver.failure())"
    assert (
        python(code, driver=driver, STUB_CUINIT="100").stdout.strip() == "no CUDA-capable device is detected"
    )
