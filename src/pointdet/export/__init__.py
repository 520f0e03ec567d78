# SPDX-License-Identifier: Apache-2.0
"""Export of trained detectors to ONNX (.onnx) and to NNabla's format (.nnp)."""
