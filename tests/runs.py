# SPDX-License-Identifier: Apache-2.0
"""Training runs within the process of a test, and the numbers that they write."""

import csv

import numpy as np

from pointdet.data.catalogue import read_dataset
from pointdet.programs import train
from pointdet.training.trainer import Trainer


class ObservedLoader:
    """A loader that calls `before(step, batch)` before it yields a batch. Steps are counted from 0."""

    def __init__(self, loader, before):
        self._loader, self._before = loader, before

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def epoch(self, epoch, start=0):
        for iteration, batch in enumerate(self._loader.epoch(epoch, start), start):
            self._before(epoch * self.iterations + iteration, batch)
            yield batch


class RecordingJournal:
    """A journal that keeps its records."""

    def __init__(self):
        self.records = []

    def write(self, epoch, step, numbers):
        self.records.append((epoch, step, numbers))


def run(folder, model, before=lambda step, batch: None, resume=False):
    """Train `model` with the run folder `folder`. Returns whether the training was completed."""
    folder.mkdir(exist_ok=True)
    dataset = model.config.dataset
    val_set = read_dataset(dataset, "val", model.class_names) if dataset.val else None
    with train.loader(model, read_dataset(dataset, "train")) as loader:
        trainer = Trainer(model, ObservedLoader(loader, before), val_set, folder)
        if resume:
            trainer.resume(folder / "checkpoints" / "last")
        return trainer.run()


def journal(folder):
    """The rows of journal.csv as text."""
    with (folder / "journal.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def column(folder, name):
    """The numbers of a column of journal.csv, without empty cells."""
    return [float(row[name]) for row in journal(folder) if row[name]]


def assert_equal(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
