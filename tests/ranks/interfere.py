# SPDX-License-Identifier: Apache-2.0
"""Run main.py with an event in the third step of one rank: python interfere.py EVENT RANK ARGUMENT..."""

import os
import signal
import sys

from pointdet.errors import PointDetError
from pointdet.programs import train
from pointdet.programs.run import run_program
from pointdet.training.graph import TrainingGraph


def interfere(what):
    if what == "stop":
        os.kill(os.getpid(), signal.SIGTERM)
    elif what == "fail":
        raise PointDetError("this rank cannot go on; fix it")
    elif what == "crash":
        raise ZeroDivisionError("a programming error")
    elif what == "die":
        os.kill(os.getpid(), signal.SIGKILL)


what, rank = sys.argv[1], sys.argv[2]
del sys.argv[1:3]
forward, calls = TrainingGraph.forward, []


def forward_and_interfere(self, batch, divisors):
    calls.append(batch)
    if len(calls) == 3 and os.environ["OMPI_COMM_WORLD_RANK"] == rank:
        interfere(what)
    return forward(self, batch, divisors)


TrainingGraph.forward = forward_and_interfere

if __name__ == "__main__":
    run_program(train.main)
