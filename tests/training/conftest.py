# SPDX-License-Identifier: Apache-2.0
"""What the tests of training share: drawn images, batches, and a CPU whose half precision is that of a GPU."""

import nnabla as nn
import nnabla.functions as F
import pytest
import tiny

import main
from pointdet import runtime
from pointdet.data.catalogue import read_dataset


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """8 images to train with and 4 to validate."""
    return tiny.draw(tmp_path_factory.mktemp("data"))


@pytest.fixture
def float_batch_normalization(monkeypatch):
    """cuDNN normalises half maps in float32. NNabla's CPU does it in half, where the gradient of a channel whose
    variance is below 6e-4 overflows, whatever the loss scale."""
    normalise, context = F.batch_normalization, runtime.start().context()

    def in_float(*arguments, **options):
        with nn.context_scope(context):
            return normalise(*arguments, **options)

    monkeypatch.setattr(F, "batch_normalization", in_float)


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
