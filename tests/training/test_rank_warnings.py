# SPDX-License-Identifier: Apache-2.0
"""Warnings of other ranks reach the log of rank 0; errors do not wait."""

import logging
from types import SimpleNamespace

import pytest

from pointdet.ranks.base import SingleProcess
from pointdet.training.rank_warnings import RankWarnings, keep_warnings, send_warnings

logger = logging.getLogger("pointdet")


@pytest.fixture(autouse=True)
def handlers(monkeypatch):
    monkeypatch.setattr(logger, "handlers", list(logger.handlers))


class RankOne(SingleProcess):
    rank, size = 1, 2

    def __init__(self):
        self.sent = []

    def gather(self, value):
        self.sent.append(value)


def test_warnings_of_rank_1_are_sent_once(capsys):
    ranks = RankOne()
    keep_warnings(ranks)
    logger.warning("%s is broken", "a.png")
    send_warnings(ranks)
    send_warnings(ranks)
    assert ranks.sent == [["a.png is broken"], []]
    assert capsys.readouterr().err == ""


def test_errors_are_printed_at_once(capsys):
    ranks = RankOne()
    keep_warnings(ranks)
    logger.error("the program ends")
    assert capsys.readouterr().err == "the program ends\n"
    send_warnings(ranks)
    assert ranks.sent == [[]]


def test_rank_0_logs_all(caplog, monkeypatch):
    monkeypatch.setattr(logger, "propagate", True)
    send_warnings(SimpleNamespace(rank=0, gather=lambda value: [value, ["a.png is broken"]]))
    assert set(caplog.messages) == {"rank 1: a.png is broken"}


def test_what_is_left_at_the_end_is_printed(capsys):
    kept = RankWarnings()
    kept.emit(logging.LogRecord("pointdet", logging.WARNING, "", 0, "too late", (), None))
    kept._print()
    assert capsys.readouterr().err == "too late\n"
