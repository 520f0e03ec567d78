# SPDX-License-Identifier: Apache-2.0
"""Import of published weights as checkpoints, and export of checkpoints to PyTorch names."""
