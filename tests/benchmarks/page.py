"""Figures as lines of plain text, and as the tables of docs/benchmarks.md."""

from collections.abc import Mapping, Sequence

from tests.benchmarks.harness import Figure

BEGIN = "<!-- written by make bench -->"
END = "<!-- end of what make bench writes -->"
COLUMNS = ("what", "median", "least to greatest", "goal", "reached", "note")


def line(figure: Figure) -> str:
    """Return a figure as one line of plain text."""
    what, median, between, goal, reached, note = _cells(figure)
    if goal:
        goal = f", goal {goal}: {'reached' if reached == 'yes' else 'missed'}"
    return f"{what}: {median} ({between}){goal}" + (f"; {note}" if note else "")


def tables(machine: Mapping[str, str], found: Mapping[str, Sequence[Figure]]) -> str:
    """Return the machine as a table of two columns, and one table a benchmark."""
    lines = ["| machine | |", "|---|---|", *map(_row, machine.items())]
    for name, figures in found.items():
        lines += ["", f"### {name.capitalize()}", _row(COLUMNS), "|" + "---|" * len(COLUMNS)]
        lines += [_row(_cells(figure)) for figure in figures]
    return "\n".join(lines)


def replaced(text: str, part: str) -> str:
    """Return a page with `part` between its markers, and all else as it was.

    Raises ValueError for a page without them.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page must have the lines {BEGIN} and {END}, in this order")
    return f"{before}{BEGIN}\n{part}\n{END}{after}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(figure: Figure) -> tuple[str, ...]:
    """Return what stands in each of the columns."""
    unit = f" {figure.unit}" if figure.unit else ""
    median, low, high = (_shown(value) for value in (figure.median, figure.low, figure.high))
    goal = ""
    if figure.goal is not None:
        goal = f"at {'least' if figure.at_least else 'most'} {figure.goal:g}{unit}"
    reached = {True: "yes", False: "no", None: ""}[figure.reached]
    return figure.what, f"{median}{unit}", f"{low} to {high}", goal, reached, figure.note


def _shown(value: float) -> str:
    """Write a number with three digits, or as a whole number."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"
