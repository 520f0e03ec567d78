# SPDX-License-Identifier: Apache-2.0
"""Signals become requests to stop; a second Ctrl-C ends the process at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pointdet.stop_request import StopRequest

SRC = Path(__file__).parents[1] / "src"
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]


def send(number):
    """Send a signal to this process; Python runs the handler before the next statement."""
    os.kill(os.getpid(), number)


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.fixture(autouse=True)
def own_handlers():
    """Handlers that differ from Python's defaults, so that restored ones are recognised."""
    before = handlers()
    received = []
    for number in SIGNALS:
        signal.signal(number, lambda *arguments: received.append(arguments[0]))
    yield received
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_is_a_request(number, own_handlers):
    with StopRequest() as stop:
        assert not stop.requested
        send(number)
        assert stop.requested
    assert own_handlers == []


BUSY = """
import os, signal, sys, time
import numpy as np
from pointdet.stop_request import StopRequest
first, blocked = signal.Signals[sys.argv[1]], sys.argv[2]
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
matrix = np.ones((6000, 6000))
with StopRequest() as stop:
    print("ready", flush=True)
    if blocked == "in C":
        matrix @ matrix @ matrix  # Python runs no handler before the end of a product
    while True:
        time.sleep(0.1)
"""


@pytest.mark.parametrize(
    ("first", "where"), [(number, "in Python") for number in SIGNALS] + [(signal.SIGINT, "in C")]
)
def test_ctrl_c_after_a_request_ends_the_process_at_once(first, where):
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY, first.name, where],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(SRC)},
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    process.send_signal(first)
    time.sleep(0.2)
    assert process.poll() is None
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "interrupted\n")
    assert time.monotonic() - sent < 1.5


def test_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            send(signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_no_line_goes_to_a_terminal_that_is_gone():
    """The terminal of a lost ssh session answers with an error to every line."""
    ours, theirs = os.openpty()
    program = (
        "import os, signal, sys, time\nsignal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "os.open(os.ttyname(0), os.O_RDWR)\nfrom pointdet.stop_request import StopRequest\nwith StopRequest() as stop:\n"
        "    print('ready', flush=True)\n    while not stop.requested: time.sleep(0.02)\n"
        "    print('a line', file=sys.stderr, flush=True)\nsys.exit(7)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(SRC)},
    )
    os.close(theirs)
    assert os.read(ours, 100).startswith(b"ready")
    os.close(ours)  # the system sends SIGHUP
    assert process.wait(timeout=20) == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_other_signals_may_come_twice(number):
    with StopRequest() as stop:
        send(number)
        send(number)
    assert stop.requested


def test_previous_handlers_are_restored(own_handlers):
    before = handlers()
    with StopRequest():
        assert all(now != old for now, old in zip(handlers(), before, strict=True))
    assert handlers() == before
    with pytest.raises(ValueError, match="broken"), StopRequest():
        raise ValueError("broken")
    assert handlers() == before
    with StopRequest():
        send(signal.SIGTERM)
    for number in SIGNALS:
        send(number)
    assert own_handlers == SIGNALS


def test_requests_are_independent():
    with StopRequest() as first:
        send(signal.SIGUSR1)
    with StopRequest() as second:
        assert not second.requested
    assert first.requested
