# SPDX-License-Identifier: Apache-2.0
"""Training: parameters are learned from batches of images and targets."""
