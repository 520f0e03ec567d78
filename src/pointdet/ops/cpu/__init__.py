# SPDX-License-Identifier: Apache-2.0
"""NNabla functions written in Python with NumPy, BLAS and oneDNN: float32 and NCHW.

They are several times faster than the functions of NNabla's CPU wheels. NNabla cannot save Python functions,
so graphs for export use NNabla's own functions.
"""
