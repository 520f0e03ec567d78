# SPDX-License-Identifier: Apache-2.0
"""The programs, one module per command: parse the arguments, do the work, return the exit status."""
