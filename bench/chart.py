"""The backlog's results as a bar chart: plain SVG, legible on a light and on a dark page."""

from collections.abc import Sequence
from html import escape

from bench.backlog import Result
from bench.rows import OURS

WIDTH = 760
LABEL_WIDTH = 270
VALUE_WIDTH = 90
BAR_HEIGHT = 20
ROW_HEIGHT = 28
TITLE_HEIGHT = 44
FONT = "system-ui, -apple-system, 'Segoe UI', sans-serif"
STYLE = f"""
text {{ font: 13px {FONT}; fill: #1f2328; }}
.title {{ font-weight: 600; font-size: 14px; }}
.other {{ fill: #9aa4b2; }}
.ours {{ fill: #0a7d62; }}
text.mine {{ font-weight: 600; }}
@media (prefers-color-scheme: dark) {{
  text {{ fill: #e6edf3; }}
  .other {{ fill: #6e7681; }}
  .ours {{ fill: #2fb594; }}
}}
"""


def draw(results: Sequence[Result]) -> str:
    """Draw one group of bars per workload, fastest first, readings per second at their ends."""
    names = dict.fromkeys(result.workload.name for result in results if result.runs)
    parts: list[str] = []
    y = 0
    for name in names:
        group = sorted((r for r in results if r.workload.name == name and r.runs), key=lambda r: -r.rate)
        parts.append(_title(group[0], y))
        y += TITLE_HEIGHT
        for result in group:
            parts.append(_bar(result, group[0].rate, y))
            y += ROW_HEIGHT
    height = y + 12
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="Readings per second, by consumer">\n<style>{STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _title(result: Result, y: int) -> str:
    workload = result.workload
    devices = f"{workload.devices:,} devices" if workload.devices else "as many devices"
    text = f"Readings per second: a backlog of {workload.readings:,} readings of {devices}"
    return f'<text class="title" x="8" y="{y + 28}">{escape(text)}</text>'


def _bar(result: Result, fastest: float, y: int) -> str:
    width = max(1.0, (WIDTH - LABEL_WIDTH - VALUE_WIDTH) * result.rate / fastest)
    bar_class, text_class = ("ours", "mine") if result.row.name == OURS else ("other", "")
    middle = y + BAR_HEIGHT / 2 + 5
    label = escape(result.row.label)
    return (
        f'<text class="{text_class}" x="{LABEL_WIDTH - 8}" y="{middle}" text-anchor="end">{label}</text>'
        f'<rect class="{bar_class}" x="{LABEL_WIDTH}" y="{y}" width="{width:.1f}" height="{BAR_HEIGHT}" rx="3"/>'
        f'<text class="{text_class}" x="{LABEL_WIDTH + width + 8:.1f}" y="{middle}">{result.rate:,.0f}</text>'
    )
