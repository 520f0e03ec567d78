# SPDX-License-Identifier: Apache-2.0
"""The width factor, for small machines."""


def scaled(channels: int, width: float) -> int:
    """The published `channels` at width 1, otherwise the multiple of 8 next to `channels` times the factor."""
    return channels if width == 1 else max(8, int(channels * width / 8 + 0.5) * 8)
