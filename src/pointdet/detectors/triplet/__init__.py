# SPDX-License-Identifier: Apache-2.0
"""CenterNet with keypoint triplets: pairs of corners confirmed by a centre (Duan et al., 2019)."""
