# SPDX-License-Identifier: Apache-2.0
"""Batches -> parameters."""
