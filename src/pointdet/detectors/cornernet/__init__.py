# SPDX-License-Identifier: Apache-2.0
"""CornerNet: objects as pairs of corners (Law and Deng, 2018)."""
