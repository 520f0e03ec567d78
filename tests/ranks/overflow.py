# SPDX-License-Identifier: Apache-2.0
"""Train in half precision; only rank 1 overflows, in its second step: python overflow.py CONFIG FOLDER.

Writes FOLDER/rank_R.npz with the parameters of the rank before every step and at the end.
"""

import sys
from pathlib import Path

import numpy as np

from pointdet.config import load
from pointdet.data.catalogue import read_dataset
from pointdet.programs import train
from pointdet.programs.run import run_program
from pointdet.runtime import start
from pointdet.training.initial_parameters import fresh
from pointdet.training.trainer import Trainer

SETTINGS = (
    "input.height=32",
    "input.width=32",
    "model.width=0.03",
    "train.batch_size=2",
    "train.num_epochs=1",
    "mixed_precision.mixed_precision=true",
    "mixed_precision.loss_scaling=16",
)


def parameters(model):
    return {name: np.array(v.data.data) for name, v in model.detector.parameters().items()}


class Overflowing:
    """A loader that stores the parameters before each batch. The second batch of rank 1 exceeds half precision."""

    def __init__(self, loader, model):
        self.history, self._loader, self._model = [], loader, model

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def epoch(self, epoch, start=0):
        for step, batch in enumerate(self._loader.epoch(epoch, start)):
            self.history.append(parameters(self._model))
            if step == 1 and self._model.runtime.ranks.rank == 1:
                batch["colour"] *= 1e6
            yield batch


def run():
    config, folder = load.override(load.load(sys.argv[1]), SETTINGS), Path(sys.argv[2])
    runtime = start()
    train_set = read_dataset(config.dataset, "train")
    model = fresh(config, train_set.class_names, runtime)
    with train.loader(model, train_set) as loader:
        batches = Overflowing(loader, model)
        Trainer(model, batches, None, folder).run()
    history = [*batches.history, parameters(model)]
    arrays = {f"{step}/{name}": array for step, held in enumerate(history) for name, array in held.items()}
    np.savez(folder / f"rank_{runtime.ranks.rank}.npz", **arrays)


if __name__ == "__main__":
    run_program(run)
