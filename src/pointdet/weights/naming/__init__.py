# SPDX-License-Identifier: Apache-2.0
"""The parameter names of published PyTorch files and ours, a module for each architecture."""
