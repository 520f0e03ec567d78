# SPDX-License-Identifier: Apache-2.0
"""Reading and naming of parameters that come from elsewhere."""
