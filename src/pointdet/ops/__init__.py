# SPDX-License-Identifier: Apache-2.0
"""Layers, pooling and loss terms in NNabla that do not depend on a detector."""
