# SPDX-License-Identifier: Apache-2.0
"""CenterNet with keypoint triplets: pairs of corners that a centre confirms (Duan et al., 2019)."""
