# SPDX-License-Identifier: Apache-2.0
"""Files on disk -> batches in shared memory. No NNabla below this folder."""
