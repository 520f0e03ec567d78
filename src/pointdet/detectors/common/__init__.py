# SPDX-License-Identifier: Apache-2.0
"""Shared by all detectors: their interface, output branches of heads, Gaussian peaks on heatmaps."""
