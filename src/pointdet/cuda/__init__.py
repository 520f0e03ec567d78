# SPDX-License-Identifier: Apache-2.0
"""From the flags to a working GPU: the driver, the card of this rank, the libraries, NNabla's extension."""
