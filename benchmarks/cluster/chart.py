# SPDX-License-Identifier: Apache-2.0
"""The efficiency against the number of GPUs as an SVG picture: a panel per network, a line per cluster."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

Curves = Mapping[str, Mapping[int, float]]  # name of the line -> GPUs -> efficiency, 0 to 1

WIDTH, HEIGHT = 330, 250  # of the axes of a panel, in pixels
LEFT, TOP, GAP = 70, 50, 60
ROW = 20  # of the legend
# The colours of Okabe and Ito, which people with colour blindness can tell apart.
COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("none", "7 3", "2 3")


def write(path: Path, panels: Sequence[tuple[str, Curves]], measured: bool) -> None:
    """Write the picture. All panels have the same lines."""
    names = list(panels[0][1])
    width = LEFT + len(panels) * (WIDTH + GAP)
    height = TOP + HEIGHT + 65 + ROW * len(names)
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(
            LEFT,
            20,
            f"Predicted efficiency; step time of one GPU {'measured' if measured else 'stated, not measured'}",
        ),
    ]
    for number, (title, curves) in enumerate(panels):
        parts += _panel(LEFT + number * (WIDTH + GAP), title, curves)
    for number, name in enumerate(names):
        y = TOP + HEIGHT + 60 + ROW * number
        parts.append(f'<line x1="{LEFT}" y1="{y}" x2="{LEFT + 40}" y2="{y}" {_stroke(number)}/>')
        parts.append(_text(LEFT + 50, y + 4, name))
    path.write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")


def _panel(left: float, title: str, curves: Curves) -> list[str]:
    gpus = sorted(next(iter(curves.values())))
    last = math.log2(gpus[-1])

    def x(n: float) -> float:
        return left + WIDTH * math.log2(n) / last

    def y(efficiency: float) -> float:
        return TOP + HEIGHT * (1 - efficiency)

    parts = [_text(left + WIDTH / 2, TOP - 10, title, "middle")]
    for tenth in range(0, 11, 2):
        parts.append(_line(left, y(tenth / 10), left + WIDTH, y(tenth / 10)))
        parts.append(_text(left - 6, y(tenth / 10) + 4, f"{10 * tenth} %", "end"))
    for n in gpus:
        parts.append(_line(x(n), TOP, x(n), TOP + HEIGHT))
        parts.append(_text(x(n), TOP + HEIGHT + 17, str(n), "middle"))
    parts.append(_text(left + WIDTH / 2, TOP + HEIGHT + 36, "GPUs (logarithmic), hosts of 8", "middle"))
    for number, curve in enumerate(curves.values()):
        points = " ".join(f"{x(n):.1f},{y(efficiency):.1f}" for n, efficiency in sorted(curve.items()))
        parts.append(f'<polyline points="{points}" fill="none" {_stroke(number)}/>')
    return parts


def _stroke(number: int) -> str:
    dash = DASHES[number % len(DASHES)]
    return f'stroke="{COLOURS[number % len(COLOURS)]}" stroke-width="2" stroke-dasharray="{dash}"'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#dddddd"/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
