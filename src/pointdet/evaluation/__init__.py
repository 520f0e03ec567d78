# SPDX-License-Identifier: Apache-2.0
"""Detections -> average precision."""
