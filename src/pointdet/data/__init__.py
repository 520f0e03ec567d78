# SPDX-License-Identifier: Apache-2.0
"""Datasets on disk -> batches in shared memory. This package does not import NNabla."""
