"""A measured figure with its goal, and the table of them."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One number that a measurement gives; `goal` is the issue's, as text, where there is one."""

    name: str
    value: float
    unit: str
    goal: str = ""


def print_figures(figures: Sequence[Figure]) -> None:
    print_table(
        ("figure", "measured", "goal"),
        [(figure.name, number(figure.value, figure.unit), figure.goal) for figure in figures],
    )


def number(value: float, unit: str = "") -> str:
    """Three significant digits or whole thousands, and the unit."""
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{text} {unit}".rstrip()


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table, its columns as wide as their widest cell; all but the first are set to the right."""
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    lines = [heads, ["-" * width for width in widths], *rows]
    print()
    for line in lines:
        cells = [
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print(f"| {' | '.join(cells)} |")
