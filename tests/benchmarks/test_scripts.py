# SPDX-License-Identifier: Apache-2.0
"""Every benchmark runs with tiny settings and prints consistent numbers."""

import json
import os
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


TINY = {
    "name": "tiny",
    "arch": "resnet",
    "num_layers": 18,
    "width": 0.05,
    "head_channels": 4,
    "size": 32,
    "batch": 2,
    "classes": 3,
}


@pytest.mark.parametrize("kernels", ["nnabla", "blas"])
def test_side_of_pointdet_in_peers(kernels, tmp_path):
    settings = {"case": TINY, "kernels": kernels, "folder": str(tmp_path), "seconds": 0.05}
    found = json.loads(run("peers.py", "--torch", "", "--ours", json.dumps(settings)).stdout.splitlines()[-1])
    assert found["loss"] > 0 and 0 < found["forward"] < found["step"]
    for name in ("step", "forward"):
        functions = json.loads((tmp_path / f"{name}.json").read_text())["functions"]
        assert sum(function["type"] == "Convolution" for function in functions) > 20


@pytest.mark.skipif("POINTDET_TORCH" not in os.environ, reason="POINTDET_TORCH names no Python with PyTorch")
def test_peers():
    output = run("peers.py", "--torch", os.environ["POINTDET_TORCH"], "--rounds", 1, "--only", "width").stdout
    assert len(re.findall(r"PyTorch +\d+\.\d +1\.00 +\d+\.\d +1\.00", output)) == 2


def test_coco_start(mpirun):
    mpirun(1, "--version")  # skips the test without mpirun
    sizes = ("--images", 200, "--objects", 900, "--voc", 50, "--evaluated", 20)
    output = run("coco_start.py", *sizes).stdout
    assert re.search(r"COCO: 200 images, 900 objects, \d MB", output)
    lines = re.findall(
        r"  rank (\d): (\S+), (\S+); (\d+), (\d+), (\d+); (\d+) resident, (\d+) its own", output
    )
    assert [line[0] for line in lines] == ["0", "0", "1"]
    for _, read, ready, before, after, peak, worker, own in lines:
        assert 0 < float(read) < float(ready)
        assert 0 < int(before) <= int(after) <= int(peak) + 1
        assert 0 < int(own) < int(worker)
    assert re.search(r"VOC: 50 annotations in \d", output) and re.search(r"of 20 images in \d", output)


def test_large_files_have_what_was_asked_for(tmp_path):
    """The same bytes for the same seed; a crowd has run lengths, all others have polygons."""
    sys.path.append(str(ROOT / "benchmarks"))
    from large_files import write_coco

    path = write_coco(tmp_path / "a", 30, 500)
    assert path.read_bytes() == write_coco(tmp_path / "b", 30, 500).read_bytes()
    content = json.loads(path.read_text())
    assert (len(content["images"]), len(content["annotations"]), len(content["categories"])) == (30, 500, 80)
    assert {image["id"] for image in content["images"]} >= {
        item["image_id"] for item in content["annotations"]
    }
    assert len(list((tmp_path / "a" / "train2017").iterdir())) == 30
    for item in content["annotations"]:
        assert isinstance(item["segmentation"], dict if item["iscrowd"] else list)


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


def test_scaling(tmp_path):
    config = ROOT / "cfg" / "quickstart.yaml"
    output = run("scaling.py", "--config", config, "--plot", tmp_path / "plot.svg").stdout
    rates = [numbers(line) for line in re.findall(r"^  images/s.*$", output, re.MULTILINE)]
    efficiencies = [numbers(line) for line in re.findall(r"^  efficiency.*$", output, re.MULTILINE)]
    assert len(rates) == len(efficiencies) == output.count("STATED, not measured") == 7
    for images, efficiency in zip(rates, efficiencies, strict=True):
        assert efficiency[0] == 1 and all(0 < value <= 1 for value in efficiency)
        for power, (rate, value) in enumerate(zip(images, efficiency, strict=True)):
            # The output rounds images/s to 1 and the efficiency to 0.001.
            rounding = 0.5 + 2**power * (0.5 * value + 0.0005 * images[0])
            assert rate == pytest.approx(2**power * images[0] * value, abs=1.01 * rounding)
    assert (tmp_path / "plot.svg").read_text(encoding="utf-8").count("<polyline") == 7


def test_scaling_of_a_measured_step(tmp_path):
    step = {"copy": 0.01, "forward": 0.1, "backward": 0.2, "update": 0.01, "source": "a test"}
    (tmp_path / "step.json").write_text(json.dumps(step), encoding="utf-8")
    config = ROOT / "cfg" / "quickstart.yaml"
    output = run("scaling.py", "--config", config, "--step", tmp_path / "step.json").stdout
    assert "STATED" not in output and output.count("(measured: a test)") == 7
    images = int(re.search(r"(\d+) image\(s\) per GPU", output)[1])
    assert numbers(re.search(r"^  images/s.*$", output, re.MULTILINE)[0])[0] == round(images / 0.32)


@pytest.mark.parametrize("content", ["{", '{"copy": 1}'])
def test_scaling_of_a_faulty_step(tmp_path, content):
    (tmp_path / "step.json").write_text(content, encoding="utf-8")
    command = [sys.executable, ROOT / "benchmarks" / "scaling.py", "--step", tmp_path / "step.json"]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2 and re.search(r"error: .*step\.json", result.stderr)


def test_scaling_check(mpirun):
    mpirun(1, "--version")  # skips the test without mpirun
    settings = ["--size", 64, "--width", 0.125, "--batch", 1, "--steps", 1, "--backward", 0.05, "--links", 0]
    output = run("scaling_check.py", *settings).stdout
    lines = re.findall(r"^  (?:train|overlap), .*%$", output, re.MULTILINE)
    assert len(lines) == 2 + 3
    for line in lines:
        found = [float(number) for number in re.findall(r"(?<!\d)[-+]?\d+\.\d+", line)]
        median, low, high, predicted, error, fastest, predicted_fastest, error_fastest = found
        assert low <= median <= high <= fastest
        assert error == pytest.approx(100 * (predicted / median - 1), abs=0.1 + 2 / median)
        assert error_fastest == pytest.approx(100 * (predicted_fastest / fastest - 1), abs=0.1 + 2 / fastest)
        assert (
            "overlap" not in line or max(predicted_fastest, fastest) <= 2 / 0.05
        )  # images/s without communication


def numbers(text):
    """All numbers of a line."""
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]


def test_faults():
    output = run("faults.py", "--kills", 2, "--ranks", 1).stdout
    assert output.endswith("nothing was lost\n"), output
    assert sum(map(int, re.findall(r"killed.* (\d+)$", output, re.MULTILINE))) >= 2
    assert re.search(r"runs that ended like the uninterrupted one +[1-9]", output)
