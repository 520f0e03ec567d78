# SPDX-License-Identifier: Apache-2.0
"""The wheel is complete: installed without the checkout, it trains, tests and exports from any folder."""

import email
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = (
    *("model.arch=resnet", "model.num_layers=18", "model.width=0.125", "model.head_channels=8"),
    *("input.height=64", "input.width=64", "train.num_epochs=1", "train.batch_size=4", "train.workers=1"),
    "train.learning_rate.warmup_epochs=0",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of the sources, so that nothing is left in the checkout."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("src", "cfg"):
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*command, "--wheel-dir", folder, source], check=True, timeout=120)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def pointdet(wheel, tmp_path_factory):
    """pointdet("train", ...) -> the finished process of the installed console command, which must end with status 0."""
    site, folder = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("anywhere")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-compile", "--quiet"]
    subprocess.run([*install, "--target", site, wheel], check=True, timeout=120)
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

    def run(*arguments, program=(site / "bin" / "pointdet",)):
        command = [sys.executable, *map(str, (*program, *arguments))]
        result = subprocess.run(
            command, check=False, cwd=folder, env=environment, capture_output=True, text=True, timeout=120
        )
        assert result.returncode == 0, result.stderr
        return result

    run.folder, run.site = folder, site
    return run


def test_contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = [name for name in names if name.endswith("METADATA")]
        fields = email.message_from_string(archive.read(metadata).decode())
    modules = {
        path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "pointdet").rglob("*.py")
    }
    configurations = {f"pointdet/cfg/{path.name}" for path in (ROOT / "cfg").glob("*.yaml")}
    assert modules | configurations | {"pointdet/py.typed"} <= set(names)
    assert fields["License"] == "Apache-2.0" and fields.get_all("Project-URL")
    assert fields.get_payload().lstrip().startswith("# PointDet")
    assert re.fullmatch(r"\d+\.\d+\.\d+", fields["Version"])


def test_it_is_the_installed_package(pointdet):
    code = "import pointdet, pointdet.config.shipped as s; print(pointdet.__file__, s.FOLDER, sep='\\n')"
    printed = pointdet(program=("-c", code)).stdout.splitlines()
    assert all(Path(line).is_relative_to(pointdet.site) for line in printed) and len(printed) == 2


def test_the_module_and_the_command_are_the_same(pointdet):
    shown = [pointdet(*command, "--help") for command in ((), ("train",))]
    same = [pointdet(*command, "--help", program=("-m", "pointdet")) for command in ((), ("train",))]
    assert [result.stdout for result in shown] == [result.stdout for result in same]
    assert shown[0].stdout.startswith("usage: pointdet ") and shown[1].stdout.startswith(
        "usage: pointdet train "
    )


def test_from_images_to_an_export(pointdet):
    """A shipped configuration by name; one worker process, which imports the console command again."""
    cpu = ("--gpus", "-1")
    size = ("--size", "64", "--train", "8", "--val", "4", "--test", "4")
    pointdet("data", *size, program=("-m", "pointdet.data.shapes"))
    settings = [word for setting in SMALL for word in ("--set", setting)]
    pointdet("train", "--train-config", "quickstart", "--data_dir", "data", "-o", "run", *cpu, *settings)
    checkpoint = ("--checkpoint", "run/checkpoints/last")
    tested = pointdet("test", *checkpoint, "--data_dir", "data", "--split", "test", *cpu)
    assert "COCO box AP" in tested.stdout
    pointdet("demo", *checkpoint, "--demo", "data/test", *cpu)
    pointdet("export", *checkpoint)
    pointdet("convert", "run/checkpoints/last", "model.safetensors")
    made = {
        path.relative_to(pointdet.folder).as_posix() for path in pointdet.folder.rglob("*") if path.is_file()
    }
    assert {"runs/test/metrics.json", "runs/demo/detections.jsonl", "model.safetensors"} <= made
    assert {"runs/export/resnet_18.nnp", "runs/export/resnet_18.json"} <= made
