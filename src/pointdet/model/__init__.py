# SPDX-License-Identifier: Apache-2.0
"""Trained detectors: loading, the inference network, and exported networks with their metadata."""
