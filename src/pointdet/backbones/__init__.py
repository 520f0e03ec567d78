# SPDX-License-Identifier: Apache-2.0
"""Image -> feature maps at stride 4, one per stack."""
