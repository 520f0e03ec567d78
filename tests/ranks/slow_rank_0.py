# SPDX-License-Identifier: Apache-2.0
"""Run a program whose rank 0 takes 4 s for the AP and for a checkpoint: python slow_rank_0.py PROGRAM ARGUMENT..."""

import importlib
import sys
import time

from pointdet.evaluation import metrics
from pointdet.programs.run import run_program
from pointdet.training import validation
from pointdet.weights import checkpoint


def slow(function):
    def after_a_while(*arguments, **settings):
        until = time.monotonic() + 4
        while time.monotonic() < until:  # at work in Python, as the computation of the AP is
            pass
        return function(*arguments, **settings)

    return after_a_while


metrics.measure = validation.measure = slow(metrics.measure)
checkpoint.save = slow(checkpoint.save)

if __name__ == "__main__":
    run_program(importlib.import_module(f"pointdet.programs.{sys.argv.pop(1)}").main)
