# SPDX-License-Identifier: Apache-2.0
"""What the tests of training share: drawn images and batches."""

import pytest
import tiny

import main
from pointdet.data.catalogue import read_dataset


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """8 images to train with and 4 to validate."""
    return tiny.draw(tmp_path_factory.mktemp("data"))


@pytest.fixture
def batches(data):
    """batches(model, count): copies of the first batches of training."""

    def take(model, count):
        found, epoch = [], 0
        with main.loader(model, read_dataset(model.config.dataset, "train")) as loader:
            while len(found) < count:
                found += [{name: a.copy() for name, a in batch.items()} for batch in loader.epoch(epoch)]
                epoch += 1
        return found[:count]

    return take
