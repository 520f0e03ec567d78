# SPDX-License-Identifier: Apache-2.0
"""Parameter files: checkpoints, NNabla's .h5 files, and the files of other systems."""
