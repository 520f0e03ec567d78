# SPDX-License-Identifier: Apache-2.0
"""The schema of the YAML configuration, and the functions that read and validate it."""
