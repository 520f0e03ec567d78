# SPDX-License-Identifier: Apache-2.0
"""Run main.py with an event in the third step of one rank, or of all: python interfere.py EVENT RANK ARGUMENT..."""

import multiprocessing
import os
import signal
import sys
import time

from pointdet.errors import PointDetError
from pointdet.programs import train
from pointdet.programs.run import run_program
from pointdet.training.graph import TrainingGraph


def interfere(what):
    if what == "stop":
        os.kill(os.getpid(), signal.SIGTERM)
    elif what in ("SIGTERM", "SIGHUP"):  # for this rank and its loader workers
        for process in (*(child.pid for child in multiprocessing.active_children()), os.getpid()):
            os.kill(process, signal.Signals[what])
    elif what == "fail":
        raise PointDetError("this rank cannot go on; fix it")
    elif what == "crash":
        raise ZeroDivisionError("a programming error")
    elif what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "hang":
        time.sleep(600)
    elif what.startswith("wait for "):  # the test removes this file
        while os.path.exists(what.removeprefix("wait for ")):
            time.sleep(0.02)


what, rank = sys.argv[1], sys.argv[2]
del sys.argv[1:3]
forward, calls = TrainingGraph.forward, []


def forward_and_interfere(self, batch, divisors):
    calls.append(batch)
    if len(calls) == 3 and rank in ("all", os.environ["OMPI_COMM_WORLD_RANK"]):
        interfere(what)
    return forward(self, batch, divisors)


TrainingGraph.forward = forward_and_interfere

if __name__ == "__main__":
    run_program(train.main)
