# SPDX-License-Identifier: Apache-2.0
"""Arrays of two devices and two layouts: conversion to NCHW, and their difference."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from pointdet.arrays import AnyArray, Arrays


def nchw(array: AnyArray) -> AnyArray:
    """(B, H, W, C) -> (B, C, H, W)."""
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2))


def nhwc(array: AnyArray) -> AnyArray:
    """(B, C, H, W) -> (B, H, W, C)."""
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1))


def difference(found: AnyArray, expected: AnyArray) -> float:
    """The norm of the difference, relative to the norm of `expected`. Infinity if a value is not finite."""
    a, b = np.asarray(found, np.float64).ravel(), np.asarray(expected, np.float64).ravel()
    if not np.isfinite(a).all():
        return math.inf
    return float(np.linalg.norm(a - b) / (np.linalg.norm(b) + 1e-12))


def largest_difference(
    found: Mapping[str, AnyArray], expected: Mapping[str, AnyArray], floor: float = 0
) -> tuple[float, str]:
    """The largest `difference` of the arrays, and the name of the array that has it.

    floor: share of the largest norm. Arrays with a smaller norm are compared with this norm instead of their
    own, because they may consist of rounding errors, such as the gradient of a bias before a normalisation.
    """
    norms = {name: float(np.linalg.norm(np.asarray(array, np.float64))) for name, array in expected.items()}
    least = floor * max(norms.values())
    differences = {
        name: difference(found[name], array) * norms[name] / max(norms[name], least, 1e-12)
        for name, array in expected.items()
    }
    worst = max(differences, key=differences.__getitem__)
    return differences[worst], worst


def cosine(found: Arrays, expected: Arrays) -> float:
    """The cosine between all arrays of `found` and all arrays of `expected`, each as one vector."""
    a, b = (
        np.concatenate([np.asarray(arrays[name], np.float64).ravel() for name in expected])
        for arrays in (found, expected)
    )
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-30))
