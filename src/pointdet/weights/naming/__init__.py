# SPDX-License-Identifier: Apache-2.0
"""Parameter keys of published PyTorch files and our parameter paths, one module per architecture."""
