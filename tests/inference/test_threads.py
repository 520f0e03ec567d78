# SPDX-License-Identifier: Apache-2.0
"""Predictors in several threads, while other threads load predictors: the bits of one thread."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tiny

from pointdet import Predictor
from pointdet.export import nnp
from pointdet.model.restore import restore
from pointdet.ops.cpu.onednn_library import library_file
from pointdet.runtime import start

WITH_ONEDNN = pytest.mark.skipif(library_file() is None, reason="onednn-cpu-gomp is not installed")
KERNELS = ["nnabla", "blas", pytest.param("onednn", marks=WITH_ONEDNN)]
ROUNDS = 6
SIDES = (64, 96)
SOURCE = str(Path(__file__).parents[2] / "src")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    model = tiny.model(tiny.config(tmp_path_factory.mktemp("data")))
    return tiny.write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "best", model)


def images(seed):
    """One batch for each of SIDES."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (1, side, side, 3), np.uint8) for side in SIDES]


def maps(network, batch):
    """A copy of the maps, so that later calls cannot change it."""
    return {name: array.copy() for name, array in network(batch).items()}


def count_different(network, batches, expected):
    """How many of the results of ROUNDS rounds are not equal to the expected ones, bit for bit."""
    different = 0
    for _ in range(ROUNDS):
        for batch, truth in zip(batches, expected, strict=True):
            found = network(batch)
            different += any((found[name] != array).any() for name, array in truth.items())
    return different


def in_threads(count, work):
    """`work(number)` in this many threads that start at the same time; the results."""
    barrier = threading.Barrier(count)

    def run(number):
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


@pytest.mark.parametrize("threads", [2, 4])
@pytest.mark.parametrize("owner", ["one network", "one model", "one model each"])
@pytest.mark.parametrize("kernels", KERNELS)
def test_networks_in_several_threads(checkpoint, kernels, owner, threads):
    """The graphs of both sizes are built in the threads, too."""
    runtime = start(cpu_kernels=kernels)
    models = [restore(checkpoint, runtime) for _ in range(threads if owner == "one model each" else 1)]
    networks = [models[k % len(models)].network() for k in range(threads)]
    if owner == "one network":
        networks = networks[:1] * threads
    batches = [images(k) for k in range(threads)]
    alone = restore(checkpoint, runtime).network()
    expected = [[maps(alone, batch) for batch in own] for own in batches]
    different = in_threads(threads, lambda k: count_different(networks[k], batches[k], expected[k]))
    assert different == [0] * threads


@pytest.mark.parametrize("kernels", KERNELS)
def test_predictors_are_loaded_while_others_run(checkpoint, kernels):
    runtime = start(cpu_kernels=kernels)
    batches = images(0)
    expected = [maps(restore(checkpoint, runtime).network(), batch) for batch in batches]
    running = restore(checkpoint, runtime).network()

    def work(number):
        if number < 2:
            return count_different(running, batches, expected)
        networks = [restore(checkpoint, runtime).network() for _ in range(3)]
        return sum(count_different(network, batches, expected) for network in networks)

    assert in_threads(4, work) == [0] * 4


def test_predictors_of_a_checkpoint_are_loaded_in_several_threads(checkpoint):
    """`from_checkpoint` sets NNabla's default context, which fails inside the context of another thread."""
    image = images(0)[0][0]
    expected = Predictor.from_checkpoint(checkpoint)(image)
    for found in in_threads(4, lambda _: [Predictor.from_checkpoint(checkpoint)(image) for _ in range(3)]):
        for detections in found:
            np.testing.assert_array_equal(detections.boxes, expected.boxes)
            np.testing.assert_array_equal(detections.scores, expected.scores)


def test_an_exported_network_in_several_threads(checkpoint, tmp_path):
    path = tmp_path / "best.nnp"
    nnp.write(restore(checkpoint, start()), path)
    network = restore(path, start()).network()
    batches = [images(k)[:1] for k in range(4)]
    expected = [[maps(network, batch) for batch in own] for own in batches]
    different = in_threads(4, lambda k: count_different(network, batches[k], expected[k]))
    assert different == [0] * 4


FORK = """
import os, sys, numpy as np
from pathlib import Path
from pointdet.model.restore import restore
from pointdet.runtime import start
network = restore(Path(sys.argv[1]), start(cpu_kernels=sys.argv[2])).network()
batch = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
expected = network(batch)
for generation in range(2):  # a child and its child
    if child := os.fork():
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    found = network(batch)
    if any((found[name] != array).any() for name, array in expected.items()):
        sys.exit(1)
print("equal")
"""


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_forked_child(checkpoint, kernels):
    """OpenMP's threads do not exist in it: with oneDNN it waited for them for ever."""
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(checkpoint), kernels],
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "2", "PYTHONPATH": SOURCE},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout.split()[-1:]) == (0, ["equal"]), done.stderr
