# SPDX-License-Identifier: Apache-2.0
"""Signals become requests to stop; a second Ctrl-C ends the program at once."""

import os
import signal

import pytest

from pointdet.stop_request import StopRequest

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]


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


@pytest.mark.parametrize("first", SIGNALS)
def test_ctrl_c_after_a_request_raises_keyboard_interrupt(first):
    before = handlers()
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
        send(first)
        assert stop.requested
        send(signal.SIGINT)
    assert handlers() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
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
