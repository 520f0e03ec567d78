# SPDX-License-Identifier: Apache-2.0
"""The rows of the journal: means over an interval, speed, log lines and the progress bar."""

import logging
import os
import re
import signal
import sys
from types import SimpleNamespace

import nnabla as nn
import numpy as np
import pytest
import tiny
from runs import RecordingJournal, column, journal, run

from pointdet.config.schema import MixedPrecisionConfig, TrainConfig
from pointdet.ranks.base import SingleProcess
from pointdet.training import log_interval
from pointdet.training.log_interval import LogInterval, column_names
from pointdet.training.progress import Progress
from pointdet.training.solver import LossScale

TERMS = ("heatmap", "total")


class TwoRanks(SingleProcess):
    """Rank 0 of two; the other rank has the same numbers."""

    size = 2

    def gather(self, value):
        return [value, 3 * value if isinstance(value, float) else value]

    def sum(self, values):
        return 2 * values


@pytest.fixture
def clock(monkeypatch):
    """clock.now: the time in seconds that the module sees."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(log_interval.time, "monotonic", lambda: clock.now)
    return clock


@pytest.fixture
def log(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("pointdet"), "propagate", True)
    caplog.set_level(logging.INFO, "pointdet")
    return caplog


def passes(terms):
    """The loss terms of an update as those of two passes."""
    half = np.array(terms, np.float32) / 2
    return [nn.NdArray.from_numpy_array(half), nn.NdArray.from_numpy_array(half)]


def write_interval(clock, updates, ranks, rows, seconds_per_update=2.0, num_epochs=2, validation_seconds=0):
    """One epoch of len(updates) updates, each the loss terms or None, with a row at its end."""
    train = TrainConfig(batch_size=4, accumulate=3, num_epochs=num_epochs, log_intervals=100)
    progress = Progress(len(updates), "coco")
    interval = LogInterval(train, TERMS, ranks, rows)
    interval.validation_seconds = validation_seconds
    with interval.epoch(progress):
        for terms in updates:
            clock.now += seconds_per_update
            progress.next_update()
            interval.add(progress.update, None if terms is None else passes(terms), waited=0.5)
        interval.fetch()
        assert interval.is_over(progress)
        interval.write(progress, 1e-3, LossScale(MixedPrecisionConfig()))


def test_a_row(clock, log):
    rows = RecordingJournal()
    write_interval(clock, [(1, 2), (3, 6)], SingleProcess(), rows)
    ((epoch, step, numbers),) = rows.records
    assert (epoch, step) == (1, 2) and list(numbers) == column_names(TERMS)
    assert numbers == {
        "lr": 1e-3,
        "heatmap": 2,
        "total": 4,
        "loss_scale": 1,
        "skipped_steps": 0,
        "images_per_second": 2 * 4 * 3 / 4.0,
        "waiting_for_data": 1.0 / 4.0,
    }
    (line,) = log.messages
    assert re.sub(r"\d+\.\d GB", "0.1 GB", line) == (
        "epoch 1/2, step 2/2 (2 steps): heatmap 2.0000, total 4.0000, lr 1.00e-03, 6.0 images/s (25% waiting), "
        "0.1 GB, 00:00:04 left"
    )


def test_a_whole_interval_says_no_number_of_steps(clock, log):
    write_interval(clock, [(1, 2)] * 100, SingleProcess(), RecordingJournal())
    assert log.messages[0].startswith("epoch 1/2, step 100/100: heatmap")


def test_the_remaining_time_includes_validations(clock, log):
    """Two epochs and, with val_intervals 5, the validation of the last epoch."""
    write_interval(clock, [(1, 2)], SingleProcess(), RecordingJournal(), validation_seconds=3600)
    assert log.messages[0].endswith(", 01:00:02 left")


def test_the_longest_wait_of_all_ranks_counts(clock):
    rows = RecordingJournal()
    write_interval(clock, [(1, 2)], TwoRanks(), rows)
    assert rows.records[0][2]["waiting_for_data"] == 1.5 / 2  # the other rank waits three times as long


def test_terms_and_images_are_summed_over_the_ranks(clock):
    rows = RecordingJournal()
    write_interval(clock, [(1, 2), (3, 6)], TwoRanks(), rows)
    ((_, _, numbers),) = rows.records
    assert (numbers["heatmap"], numbers["total"], numbers["images_per_second"]) == (4, 8, 12)


def test_skipped_updates_are_not_part_of_the_means(clock):
    rows = RecordingJournal()
    write_interval(clock, [(1, 2), None, (3, 6), None], SingleProcess(), rows)
    write_interval(clock, [None], SingleProcess(), rows)
    (_, _, some), (_, _, none) = rows.records
    assert (some["heatmap"], some["total"]) == (2, 4)
    assert some["images_per_second"] == 6  # they take time and images all the same
    assert np.isnan([none["heatmap"], none["total"]]).all()


def test_other_ranks_write_nothing(clock, log):
    write_interval(clock, [(1, 2)], TwoRanks(), None)
    assert not log.messages


def test_the_remaining_time_of_a_long_training_is_in_days(clock, log):
    write_interval(
        clock, [(1, 2)], SingleProcess(), RecordingJournal(), seconds_per_update=3600.0, num_epochs=61
    )
    assert log.messages[0].endswith(", 2.5 days left")


def test_a_terminal_shows_a_progress_bar_too(clock, log, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    write_interval(clock, [(1, 2)], SingleProcess(), RecordingJournal())
    shown = capsys.readouterr().err
    assert "epoch 1/2" in shown and "1/1" in shown and "heatmap 1.0000, total 2.0000" in shown
    assert log.messages and log.messages[0].startswith("epoch 1/2, step 1/1")  # log.txt has it too


@pytest.mark.parametrize(("update", "is_over"), [(1, False), (3, True), (6, True), (7, False), (8, True)])
def test_an_interval_ends_after_log_intervals_updates_and_with_the_epoch(update, is_over):
    interval = LogInterval(TrainConfig(log_intervals=3), TERMS, SingleProcess(), None)
    progress = Progress(8, "coco")
    progress.update = update
    assert interval.is_over(progress) == is_over


def test_rows_of_a_training(tmp_path, data):
    """A row has the means since the last row, also at the end of an epoch and after the run was resumed."""
    every = tiny.model(tiny.config(data))
    run(tmp_path / "every", every)
    totals = column(tmp_path / "every", "total")

    def signalled(step, batch):
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    config = tiny.config(data, "train.log_intervals=3")
    run(tmp_path / "run", tiny.model(config), signalled)
    run(tmp_path / "run", tiny.model(config), resume=True)
    rows = journal(tmp_path / "run")
    ends = [int(row["step"]) for row in rows]
    assert ends == [2, 3, 4, 7, 8]
    for start, end, row in zip([0, *ends], ends, rows, strict=False):
        assert float(row["total"]) == pytest.approx(np.mean(totals[start:end]), rel=1e-12)


def test_fetch_returns_the_first_update_that_is_not_finite():
    interval = LogInterval(TrainConfig(batch_size=1), TERMS, SingleProcess(), None)
    with interval.epoch(Progress(9, "coco")):
        for update, terms in enumerate([(1, 2), (1, np.inf), (np.nan, 4)], 7):
            interval.add(update, passes(terms), waited=0)
        update, terms = interval.fetch()
        assert update == 8
        np.testing.assert_array_equal(terms, [1, np.inf])
        assert interval.fetch() is None
