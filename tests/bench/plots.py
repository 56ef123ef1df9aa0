"""Two kinds of picture, written as plain SVG, so that the benchmarks need no plotting library."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from bench.figures import Result

WIDTH = 860
ROW = 26
LEFT = 220
COLOURS = ("#1f6f5c", "#b5651d", "#4a5fa5", "#8a3b6e")
PASS, BELOW, RULE = "#1f6f5c", "#b23a48", "#888888"
FULL_SCALE = 3.0


def bars(results: Sequence[Result]) -> str:
    """One bar for each goal: how much of it was reached; 1 is the goal, more is better whichever way it points."""
    drawn = [(one, _share(one)) for one in results]
    height = ROW * len(drawn) + 50
    scale = (WIDTH - LEFT - 70) / FULL_SCALE
    rows = [_bar(one, share, 20 + ROW * place, scale) for place, (one, share) in enumerate(drawn)]
    goal_x = LEFT + scale
    rows.append(
        f'<line x1="{goal_x}" y1="12" x2="{goal_x}" y2="{height - 25}" stroke="{RULE}" stroke-dasharray="4 3"/>'
    )
    rows.append(_text(goal_x - 14, height - 8, "goal"))
    return _svg(height, rows)


def lines(series: Mapping[str, Sequence[float]], x_label: str, y_label: str) -> str:
    """Lines over their sample numbers, from zero, so that a small drift looks small."""
    height, top, bottom = 300, 20, 260
    highest = max((max(values) for values in series.values()), default=1.0) * 1.1
    drawn = [f'<line x1="60" y1="{bottom}" x2="{WIDTH - 20}" y2="{bottom}" stroke="{RULE}"/>']
    for place, (name, values) in enumerate(series.items()):
        step = (WIDTH - 80) / max(1, len(values) - 1)
        points = " ".join(
            f"{60 + step * number:.1f},{bottom - (bottom - top) * value / highest:.1f}"
            for number, value in enumerate(values)
        )
        colour = COLOURS[place % len(COLOURS)]
        drawn.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        drawn.append(_text(60 + 220 * place, 292, name, colour))
    drawn += [
        _text(6, top + 8, f"{highest:.0f} {y_label}"),
        _text(30, bottom + 4, "0"),
        _text(WIDTH - 90, 276, x_label),
    ]
    return _svg(height, drawn)


def _share(one: Result) -> float:
    if one.failure or math.isnan(one.judged) or one.judged <= 0:
        return 0.0
    return one.goal.bound / one.judged if one.goal.at_most else one.judged / one.goal.bound


def _bar(one: Result, share: float, y: int, scale: float) -> str:
    colour = PASS if one.met else BELOW
    width = min(share, FULL_SCALE) * scale
    return (
        _text(8, y + 14, one.name)
        + f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{ROW - 8}" fill="{colour}"/>'
        + _text(LEFT + width + 6, y + 14, f"{share:.2f}")
    )


def _text(x: float, y: float, words: str, colour: str = "currentColor") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" fill="{colour}">{escape(words)}</text>'


def _svg(height: int, drawn: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">'
    # A ground of its own: pages may be dark.
    ground = f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/><g color="#222222">'
    return "\n".join([head, ground, *drawn, "</g></svg>"]) + "\n"
