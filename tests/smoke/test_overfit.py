# SPDX-License-Identifier: Apache-2.0
"""From the door to the predictor: small detectors learn eight drawn images by heart, one for each backbone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from pointdet.config.load import load
from pointdet.data.catalogue import read_dataset
from pointdet.evaluation.metrics import measure
from pointdet.evaluation.run import evaluate
from pointdet.inference.predictor import Predictor
from pointdet.runtime import Alone

SRC = Path(__file__).parents[2] / "src"

SETTINGS = (
    "model.head_channels=16",
    # The images as they are.
    "augment.flip=0",
    "augment.crop=false",
    "augment.shift=0",
    "augment.scale=0",
    "augment.colour=0",
    "train.batch_size=4",
    "train.learning_rate.base_lr=0.003",
    "train.log_intervals=100",
)
BACKBONES = {
    "resnet": "model.num_layers=18 model.width=0.25 train.num_epochs=80",
    "dlav0": "model.num_layers=34 model.width=0.125 train.num_epochs=40",
    "hourglass": "model.num_layers=104 model.hourglass_levels=2 model.width=0.0625 train.num_epochs=25",
    "resdcn": "model.num_layers=18 model.width=0.125 train.num_epochs=40",
    "dla": "model.num_layers=34 model.width=0.125 train.num_epochs=25",
    "hrnet": "model.num_layers=18 model.width=0.45 train.num_epochs=25 runtime.cpu_kernels=nnabla",
}


@pytest.mark.parametrize("arch", BACKBONES)
def test_ctdet_learns_eight_images(tmp_path, arch):
    config = tiny.write_config(tmp_path / "tiny.yaml", tiny.draw(tmp_path / "data", train=8))
    settings = (*SETTINGS, f"model.arch={arch}", *BACKBONES[arch].split())
    overrides = [word for setting in settings for word in ("--set", setting)]
    result = subprocess.run(
        [
            sys.executable,
            SRC / "main.py",
            "ctdet",
            "--train-config",
            config,
            "-o",
            tmp_path / "run",
            *overrides,
        ],
        check=False,
        capture_output=True,
        text=True,
        # Matrices this small only lose by more threads.
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    predictor = Predictor.from_checkpoint(tmp_path / "run" / "checkpoints" / "last")
    dataset = read_dataset(load(config).dataset, "train")
    assert sum(len(record.annotation) for record in dataset.records) >= 10
    metrics = measure(dataset, evaluate(predictor, dataset, Alone()), "coco")
    assert metrics["AP50"] >= 0.9
    assert metrics["AP"] >= 0.4
