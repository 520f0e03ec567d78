# SPDX-License-Identifier: Apache-2.0
"""CenterNet, objects as points (Zhou et al., 2019)."""
