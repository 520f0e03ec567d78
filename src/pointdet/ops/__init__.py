# SPDX-License-Identifier: Apache-2.0
"""NNabla functions that know nothing of detection."""
