# SPDX-License-Identifier: Apache-2.0
"""Average precision, inference cost, and the reports of both."""
