# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the training tests: a dataset of random images, and batches of it."""

import pytest
import tiny

from pointdet.data.catalogue import read_dataset
from pointdet.programs import train


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A data folder with 8 training images and 4 validation images."""
    return tiny.draw(tmp_path_factory.mktemp("data"))


@pytest.fixture
def batches(data):
    """batches(model, count): copies of the first batches of training."""

    def take(model, count):
        found, epoch = [], 0
        with train.loader(model, read_dataset(model.config.dataset, "train")) as loader:
            while len(found) < count:
                found += [{name: a.copy() for name, a in batch.items()} for batch in loader.epoch(epoch)]
                epoch += 1
        return found[:count]

    return take
