# SPDX-License-Identifier: Apache-2.0
"""Unusable images and left out objects of several ranks."""

import logging
from types import SimpleNamespace

import pytest

from pointdet.data.loader import Loader
from pointdet.errors import PointDetError
from pointdet.ranks.base import SingleProcess
from pointdet.training.data_faults import DataFaults


class TwoRanks(SingleProcess):
    """Rank 0 of two; `other` is what rank 1 has."""

    size = 2

    def __init__(self, other):
        self._other = other

    def gather(self, value):
        return [value, self._other]


def loader(faults, images=60):
    found = SimpleNamespace(faults=frozenset(faults), _records=range(images))
    found.check_faults = lambda faults: Loader.check_faults(found, faults)
    return found


def test_the_limit_counts_the_images_of_all_ranks():
    """20 of 60: each rank has found 15 of 30 bad images."""
    faults = DataFaults(loader(range(15)), TwoRanks(frozenset(range(15, 30))))
    assert faults.unknown == 15
    with pytest.raises(PointDetError, match="30 of 60 images cannot be used"):
        faults.share()


def test_images_that_both_ranks_found_count_once():
    """Over the epochs, every rank meets every image."""
    faults = DataFaults(loader(range(15)), TwoRanks(frozenset(range(5, 20))))
    faults.share()
    assert faults.unknown == 0


def test_left_out_objects_of_all_ranks_are_one_warning(monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("pointdet"), "propagate", True)
    own = SimpleNamespace(take_overflow=lambda: {"a.png": 3})
    DataFaults(own, TwoRanks({"b.png": 4})).warn_of_overflow(2)
    (message,) = caplog.messages
    assert message == (
        "7 objects of epoch 2 were left out: more in one image than detector.max_objects (first: a.png, b.png)"
    )
