# SPDX-License-Identifier: Apache-2.0
"""Prediction: image -> detections, on images, videos and cameras."""
