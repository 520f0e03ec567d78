# SPDX-License-Identifier: Apache-2.0
"""The schema of every YAML key, and the way from YAML to a validated Config."""
