# SPDX-License-Identifier: Apache-2.0
"""Features -> detections: head, loss and codec of each method."""
