# SPDX-License-Identifier: Apache-2.0
"""The width factor, for small machines."""


def scaled(channels: int, width: float) -> int:
    """`channels` times the width factor, as a multiple of 8."""
    return max(8, int(channels * width / 8 + 0.5) * 8)
