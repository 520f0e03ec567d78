# SPDX-License-Identifier: Apache-2.0
"""Parameters of other systems -> our checkpoints, and the way back."""
