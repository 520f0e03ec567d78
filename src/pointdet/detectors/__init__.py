# SPDX-License-Identifier: Apache-2.0
"""The detectors: head, loss and codec of each method, and their catalogue."""
