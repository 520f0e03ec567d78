# SPDX-License-Identifier: Apache-2.0
"""Batches that do not fit into the memory are refused before the memory is asked for."""

import time

import numpy as np
import pytest

from pointdet.data.ring_buffer import RingBuffer
from pointdet.errors import PointDetError


@pytest.mark.parametrize("shape", [(10**6, 10**6), (10**12, 10**12), (2**40,)])
def test_batches_that_do_not_fit_into_the_memory(shape):
    start = time.process_time()
    with pytest.raises(
        PointDetError,
        match=r"the buffer of the loader's batches needs [0-9,]+ MiB, but [0-9,]+ MiB of memory are available; lower",
    ):
        RingBuffer({"image": (shape, np.uint8)}, 3)
    assert time.process_time() - start < 1


def test_batches_beyond_the_limit_of_a_control_group(monkeypatch):
    monkeypatch.setattr("pointdet.available_memory.available_bytes", lambda: 1 << 20)
    RingBuffer({"image": ((1 << 18,), np.uint8)}, 3).close()
    with pytest.raises(
        PointDetError, match="needs 2 MiB, but 1 MiB of memory are available; lower train.batch_size"
    ):
        RingBuffer({"image": ((1 << 19,), np.uint8)}, 3)
