# SPDX-License-Identifier: Apache-2.0
"""What NNabla has once per process: scopes and contexts while a graph is built, and its cache of free memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import nnabla as nn
from nnabla.ext_utils import import_extension_module

# Held while a graph is built or loaded. `nn.parameter_scope`, `nn.context_scope` and `nn.recompute` change
# variables of the process, so another thread would create its functions and parameters with the wrong ones.
building = threading.RLock()


class FunctionContext(nn.Context):
    """The context of a function in Python, which does not change the context of the process when it runs."""


_set_context = nn.context_scope
_unchanged = nullcontext()


def _context_scope(context: nn.Context) -> AbstractContextManager[None]:
    return _unchanged if isinstance(context, FunctionContext) else _set_context(context)


# NNabla calls every method of a function in Python inside `context_scope` of the function's context. During a
# forward pass of one thread that would change the context of a graph which another thread builds.
nn.context_scope = _context_scope


def function_context() -> FunctionContext:
    """The current context for a function in Python, whose methods must not create functions of NNabla."""
    current = nn.get_current_context()
    return FunctionContext(current.backend, current.array_class, current.device_id)


_changed = threading.Condition()
_passes = 0  # forward passes that run now
_waiting = 0  # threads that wait for the end of all passes


@contextmanager
def forward_pass() -> Iterator[None]:
    """Context of a forward pass. Several threads can be inside, but not while the memory cache is cleared."""
    global _passes
    with _changed:
        _changed.wait_for(lambda: _waiting == 0)
        _passes += 1
    try:
        yield
    finally:
        with _changed:
            _passes -= 1
            _changed.notify_all()


def clear_memory_cache(device: str) -> None:
    """Return NNabla's free memory of "cpu" or "cudnn" to the system, after the end of all forward passes.

    NNabla itself does not protect the cache from a pass of another thread. Do not call it inside a pass.
    """
    global _waiting
    with _changed:
        _waiting += 1
        try:
            _changed.wait_for(lambda: _passes == 0)
            import_extension_module(device).clear_memory_cache()
        finally:
            _waiting -= 1
            _changed.notify_all()
