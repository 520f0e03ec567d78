# SPDX-License-Identifier: Apache-2.0
"""NNabla functions over NumPy and its BLAS: float32, NCHW, several times faster than those of NNabla's CPU wheels.

A saved graph cannot hold Python functions, so graphs for export are built from NNabla's own.
"""
