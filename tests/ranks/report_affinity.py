# SPDX-License-Identifier: Apache-2.0
"""Print the cores of this rank and of a loader worker, and the number of threads: python report_affinity.py."""

import os
import tempfile
from pathlib import Path

import tiny

from pointdet.data.catalogue import read_dataset
from pointdet.programs import train


def run():
    from pointdet.runtime import start
    from pointdet.training.initial_parameters import fresh

    with tempfile.TemporaryDirectory() as folder:
        config = tiny.config(tiny.draw(Path(folder), train=4, val=0), "train.workers=1")
        train_set = read_dataset(config.dataset, "train")
        with train.loader(fresh(config, train_set.class_names, start()), train_set) as batches:
            next(batches.epoch(0))
            (worker,) = batches._pool._workers.values()
            print("worker=" + " ".join(map(str, os.sched_getaffinity(worker.pid))))
    print("rank=" + " ".join(map(str, os.sched_getaffinity(0))))
    print("threads=" + os.environ.get("OMP_NUM_THREADS", "1"))


if __name__ == "__main__":
    run()
