# SPDX-License-Identifier: Apache-2.0
"""The factor `model.width` on the numbers of channels."""


def scaled(channels: int, width: float) -> int:
    """`channels` at width 1, else the multiple of 8 nearest to `channels` * `width`, at least 8."""
    return channels if width == 1 else max(8, int(channels * width / 8 + 0.5) * 8)
