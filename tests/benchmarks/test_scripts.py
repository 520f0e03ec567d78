# SPDX-License-Identifier: Apache-2.0
"""Every benchmark runs with tiny settings and prints consistent numbers."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(script, *arguments):
    """Run a benchmark. Status 1 is allowed: with tiny settings a benchmark may miss its bound."""
    command = [sys.executable, ROOT / "benchmarks" / script, *map(str, arguments)]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert result.returncode in (0, 1) and "Traceback" not in result.stderr, result.stderr
    return result


def row(text, name):
    """The numbers of the line that begins with `name`."""
    (line,) = re.findall(rf"^{re.escape(name)}[ ,].*$", text, re.MULTILINE)
    return [float(number) for number in re.findall(r"\d+\.\d+", line)]


@pytest.fixture(autouse=True)
def package(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))


def test_loader():
    output = run("loader.py", "--repeats", 1, "--images", 4, "--workers", 1).stdout
    sample, imread = row(output, "whole sample")[0], row(output, "cv2.imread")[0]
    assert sample / imread == pytest.approx(float(re.search(r"sample / imread = (\S+)", output)[1]), rel=0.02)
    assert float(re.search(r"1 worker\(s\): (\d+) images/s", output)[1]) > 0


@pytest.mark.parametrize("arch", ["resnet", "resdcn"])
def test_step(arch):
    output = run("step.py", "--arch", arch, "--size", 64, "--width", 0.125, "--repeats", 2).stdout
    inference, rest = output.split("training step")
    training, functions = rest.split("by function")
    best = "onednn" if "onednn" in inference else "blas"
    assert row(inference, f"{best}, heads apart")[0] > 0
    for name in ("nnabla", "blas", f"{best}, heads apart", f"{best}, graph built every step"):
        whole, ratio, *parts = row(training, f"{name}  ")
        assert sum(parts) == pytest.approx(whole, abs=0.3)
        assert ratio == pytest.approx(row(training, "nnabla  ")[0] / whole, abs=0.05 * ratio)
    assert re.search("^nnabla .*BatchNormalization", functions, re.MULTILINE)
    assert re.search("^blas .*FusedBatchNormalization", functions, re.MULTILINE)


def test_ranks(mpirun):
    mpirun(1, "--version")  # skips the test without mpirun
    settings = ["--size", 64, "--width", 0.125, "--batch", 2, "--steps", 2, "--repeats", 1]
    output = run("ranks.py", *settings).stdout
    rates = row(output, "images/s")
    parts = [row(output, name) for name in ("forward, backward", "waiting for data", "all-reduce")]
    assert all(
        0 <= milliseconds < 2000 * ranks / rates[ranks - 1]
        for part in parts
        for ranks, milliseconds in zip((1, 2), part, strict=True)
    )
    assert parts[2][1] > 0
    assert float(re.search(r"rank = (\S+) ", output)[1]) == pytest.approx(rates[1] / rates[0], abs=0.01)


def test_corner_pool():
    output = run("corner_pool.py", "--size", 16, "--repeats", 1).stdout
    for form in ("padding, maximum pooling", "doubling", "computed twice", "function over NumPy"):
        (line,) = re.findall(rf"^{form}.*$", output, re.MULTILINE)
        forward, backward, *_ = (float(n) for n in re.findall(r"\d+\.\d+", line))
        assert forward > 0 and backward > 0


def test_heatmaps():
    output = run("heatmaps.py", "--size", 64, "--batch", 4, "--repeats", 1).stdout
    present = float(re.search(r"(\S+) of 80 classes", output)[1])
    assert 2 < present < 5
    for heatmaps, detector in enumerate(("ctdet", "cornernet", "triplet"), 1):
        every, _, only, _, ratio = row(output, detector)
        assert every == pytest.approx(heatmaps * 80 * 16 * 16 * 4 / 1000, abs=0.06)
        assert only == pytest.approx(every * present / 80, abs=0.2) and ratio == pytest.approx(
            80 / present, abs=0.3
        )


def test_backbones():
    output = run("backbones.py", "--size", 64, "--networks", "resnet_18", "--repeats", 1).stdout
    parameters, gigaflop, forward, step, peak = row(output, "resnet_18")
    assert parameters == pytest.approx(15.8) and 0 < forward < step and peak > 100
    assert gigaflop == pytest.approx(45.3 / 64, abs=0.1)  # published for 512 x 512


def test_memory():
    settings = ["--size", 128, "--batch", 4, "--width", 0.25, "--repeats", 1, "--networks", "hourglass_52"]
    output = run("memory.py", *settings).stdout
    (line,) = re.findall("^hourglass_52.*$", output, re.MULTILINE)
    peak, recomputed, saved = (float(number) for number in line.replace("%", "").split()[1:4])
    assert recomputed < peak and saved == pytest.approx(100 * (1 - recomputed / peak), abs=1)


def test_decode():
    output = run("decode.py", "--repeats", 1).stdout
    total = row(output, "decode  ")[0] + row(output, "soft-NMS  ")[0]
    assert float(re.search(r"decode \+ soft-NMS = (\S+) ms", output)[1]) == pytest.approx(total, abs=0.02)
    assert "1000 candidates" in output


def test_engines():
    output = run("engines.py", "--size", 64, "--width", 0.125, "--threads", 1, "--repeats", 1).stdout
    for name in ("onnxruntime", "  plain layout", "  size known"):
        (line,) = re.findall(rf"^{name}  .*$", output, re.MULTILINE)
        assert float(line.split()[-1]) < 1e-4
    assert row(output, "nnabla ")[1] == 1
    assert float(re.search(r"around / network = (\S+)", output)[1]) > 0
