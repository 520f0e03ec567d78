# SPDX-License-Identifier: Apache-2.0
"""main.py, where something happens to one rank in its third step: python interfere.py WHAT RANK ARGUMENT..."""

import os
import signal
import sys

import main
from pointdet.errors import PointDetError
from pointdet.runtime import door
from pointdet.training.graph import TrainingGraph


def interfere(what):
    if what == "stop":
        os.kill(os.getpid(), signal.SIGTERM)
    elif what == "fail":
        raise PointDetError("this rank cannot go on; mend it")
    elif what == "crash":
        raise ZeroDivisionError("a mistake of ours")
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
    door(main.main)
