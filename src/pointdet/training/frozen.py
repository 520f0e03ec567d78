# SPDX-License-Identifier: Apache-2.0
"""The parameters that train.freeze names, which no update changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pointdet.errors import PointDetError


def frozen_names(paths: Iterable[str], scopes: Sequence[str]) -> set[str]:
    """The paths below any of `scopes`, such as ``res1`` or ``stack1/hm_conv1``, or equal to one of them.

    Errors: PointDetError for a scope without a parameter, and if no parameter is left to train.
    """
    paths = list(paths)
    found: set[str] = set()
    for scope in scopes:
        below = {path for path in paths if f"{path}/".startswith(f"{scope.strip('/')}/")}
        if not below:
            known = ", ".join(dict.fromkeys(path.partition("/")[0] for path in paths))
            raise PointDetError(
                f"train.freeze: {scope!r} has no parameter to train; the network has {known}, and scopes below them"
            )
        found |= below
    if len(found) == len(paths):
        raise PointDetError("train.freeze leaves no parameter to train; name fewer scopes")
    return found
