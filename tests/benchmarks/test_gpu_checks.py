# SPDX-License-Identifier: Apache-2.0
"""The checks of benchmarks/gpu on a CPU, and the faults that they must find."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from pointdet.config.schema import Config, ModelConfig

ROOT = Path(__file__).parents[2]
GPU = ROOT / "benchmarks" / "gpu"

pytestmark = pytest.mark.usefixtures("gpu_modules")


def run(script, *arguments, status=0):
    """Run a check with the CPU as device. Returns what it prints."""
    command = [sys.executable, GPU / script, "--device", "cpu", *map(str, arguments)]
    environment = {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    result = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=120, env=environment
    )
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout


def rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_every_backbone_and_detector_is_compared():
    from models import NETWORKS

    settings = [dict(entry.split("=") for entry in overrides) for overrides in NETWORKS.values()]
    architectures = get_args(ModelConfig.model_fields["arch"].annotation)
    assert {entry["model.arch"] for entry in settings} == set(architectures)
    detectors = {
        kind.model_fields["name"].default for kind in get_args(Config.model_fields["detector"].annotation)
    }
    assert {entry.get("detector.name", "ctdet") for entry in settings} == detectors


def test_large_configurations_are_shipped():
    from models import CONFIGURATIONS, LARGE

    assert all((CONFIGURATIONS / f"{name}.yaml").exists() for name in LARGE)


def test_check():
    output = run("check.py")
    assert "check: all well" in output and len(re.findall(r"TFLOP/s", output)) == 4


def test_operations(tmp_path):
    output = run("operations.py", "--only", "corner pooling,losses,updates", "--results", tmp_path / "rows")
    found = rows(tmp_path / "rows")
    assert "operations: all well" in output and len(found) == 5 * 4 + 2
    assert all(row["difference"] <= (0.04 if "half" in row["kind"] else 2e-4) for row in found)


def test_networks(tmp_path):
    kinds = ["float NHWC", "half NCHW"]
    output = run(
        "networks.py", "--only", "resdcn", "--kinds", ",".join(kinds), "--results", tmp_path / "rows"
    )
    last, half = rows(tmp_path / "rows")
    assert "networks: all well" in output and [last["kind"], half["kind"]] == kinds
    assert last["gradient"] < 1e-3 < half["gradient"] < 1 and half["loss"] != last["loss"]


def test_speed(tmp_path):
    settings = ["--only", "resnet_18", "--kinds", "float NCHW", "--images", 1, "--steps", 1]
    run("speed.py", *settings, "--results", tmp_path / "rows")
    (row,) = rows(tmp_path / "rows")
    assert row["images_per_second"] == pytest.approx(1000 / row["step_ms"]) and math.isfinite(row["loss"])
    assert {"forward", "backward", "update"} <= set(row["parts_ms"])
    assert all(0 <= milliseconds < 5000 for milliseconds in row["parts_ms"].values())


def test_function_times(tmp_path):
    settings = ["--only", "resnet_18", "--kinds", "float NCHW", "--images", 1]
    output = run("function_times.py", *settings, "--results", tmp_path / "rows")
    (row,) = rows(tmp_path / "rows")
    assert {"Convolution", "BatchNormalization", "LogSigmoid"} <= set(row["milliseconds"]["backward"])
    assert re.search(r"backward Convolution 1x\d+x\d+x\d+ \* \d+x\d+x\d+x\d+", output)


def test_dump_contains_the_whole_graph(tmp_path):
    output = run("dump.py", tmp_path, "--only", "resnet_18")
    assert float(re.search(r"loss (\S+)", output)[1]) > 0
    graph = json.loads((tmp_path / "resnet_18_coco_mp.json").read_text())
    with np.load(tmp_path / "resnet_18_coco_mp.npz") as arrays:
        known = set(arrays.files)
        assert arrays["i/image"].shape == (2, 128, 128, 3) and arrays["i/image"].dtype == np.uint8
    assert set(graph["learned"]) <= known
    for function in graph["functions"]:
        assert set(function["inputs"]) <= known, function
        known |= set(function["outputs"])
    assert graph["functions"][-1]["shapes"] == [[]]  # the loss
    rules = set(re.findall(r'^    "(\w+)": ', (GPU / "torch_side.py").read_text(), re.MULTILINE))
    assert {function["type"] for function in graph["functions"]} <= rules


def test_nccl_of_two_ranks_on_cpus(mpirun):
    done = mpirun(2, GPU / "nccl.py", "--device", "cpu", "--steps", "2")
    assert done.returncode == 0 and "nccl: all well" in done.stdout, done.stderr
    assert float(re.search(r"largest difference (\S+) in 2 steps", done.stdout)[1]) < 1e-6


def test_without_a_gpu_a_check_ends_with_one_line():
    command = [sys.executable, GPU / "check.py"]
    environment = {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=environment)
    if done.returncode == 0:
        pytest.skip("this machine has a GPU")
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: "), done.stderr


def test_faults_are_found(capsys):
    import operations
    from results import Results

    results = Results("test", None)
    array = np.arange(1, 5, dtype=np.float32)

    def compare(found, on_cpu=()):
        return operations.compare(
            results, "case", "float", lambda: ({"y": found}, on_cpu), {"y": array}, 1e-3
        )

    assert compare(array) == 0 and not results.faults
    assert compare(1.01 * array) == pytest.approx(0.01) and "in y" in results.faults[-1]
    assert compare(np.where(array == 2, np.nan, array)) == math.inf and len(results.faults) == 2
    compare(array, ["ReLU"])
    assert results.faults[-1] == "case, float: NNabla runs ReLU on the CPU"
    assert math.isnan(operations.compare(results, "case", "float", lambda: 1 / 0, {"y": array}, 1))
    assert results.finish() == 1 and "test: 4 fault(s)" in capsys.readouterr().out


def test_gradients_of_rounding_errors_are_compared_with_the_largest():
    from comparison import largest_difference

    expected = {"large": np.full(4, 100.0), "noise": np.full(4, 1e-6)}
    found = {"large": np.full(4, 101.0), "noise": np.full(4, 2e-6)}
    assert largest_difference(found, expected) == (pytest.approx(1), "noise")
    assert largest_difference(found, expected, floor=1e-3) == (pytest.approx(0.01), "large")


@pytest.mark.parametrize("name", ["terms", "statistics", "maps", "gradient", "cosine", "batch"])
def test_each_difference_of_a_network_has_a_bound(name):
    from dataclasses import replace

    from networks import FLOAT, Differences

    good = Differences(terms=0, statistics=0, maps=0, gradient=0, cosine=1, batch=1)
    assert good.within(FLOAT)
    for wrong in (0.5, math.nan):
        assert not replace(good, **{name: wrong}).within(FLOAT)
