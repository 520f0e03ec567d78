# SPDX-License-Identifier: Apache-2.0
"""Backbones: normalised image -> feature maps at stride 4, one per stack."""
