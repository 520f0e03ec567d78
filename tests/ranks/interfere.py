# SPDX-License-Identifier: Apache-2.0
"""Run main.py with an event in one rank, or in all: python interfere.py "EVENT [at N]" RANK ARGUMENT...

The event comes before the forward pass N (3). N = save: when the rank begins to save its fourth update.
N = validation: when it begins its first validation.
"""

import multiprocessing
import os
import signal
import sys
import time

from pointdet.errors import PointDetError
from pointdet.programs import train
from pointdet.programs.run import run_program
from pointdet.ranks import watchdog
from pointdet.training.graph import TrainingGraph
from pointdet.training.run_checkpoints import RunCheckpoints
from pointdet.training.validation import Validation


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
    elif what == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what.startswith("wait for "):  # the test removes this file
        while os.path.exists(what.removeprefix("wait for ")):
            time.sleep(0.02)


what, _, at = sys.argv[1].partition(" at ")
rank = sys.argv[2]
del sys.argv[1:3]
watchdog.SECONDS_TO_SAVE = 10
here = rank in ("all", os.environ["OMPI_COMM_WORLD_RANK"])
forward, save_last, validate, calls = TrainingGraph.forward, RunCheckpoints.save_last, Validation.run, []


def forward_and_interfere(self, batch, divisors):
    calls.append(batch)
    if here and str(len(calls)) == (at or "3"):
        interfere(what)
    return forward(self, batch, divisors)


def interfere_and_save(self, progress):
    if here and at == "save" and progress.step == 4:
        interfere(what)
    save_last(self, progress)


def interfere_and_validate(self, *arguments):
    if here and at == "validation":
        interfere(what)
    return validate(self, *arguments)


TrainingGraph.forward, RunCheckpoints.save_last = forward_and_interfere, interfere_and_save
Validation.run = interfere_and_validate

if __name__ == "__main__":
    run_program(train.main)
