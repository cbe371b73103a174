"""The report's figures: each module of this folder is one, and the page draws all of them."""

from dataclasses import replace
from typing import Protocol, cast

from kd.registry import Kind
from reports.draw.drawing import Figure
from reports.findings import Findings

FIGURES = Kind("figure", __name__)
GROUPS = ("Evidence", "Recipe", "Search")  # headings of the page's contents; others follow them


class FigureModule(Protocol):
    """What a module of this folder offers.

    `GROUP` is the heading of the page's contents that lists the figure, by its `NAME` unless it has
    a name of its own; `ORDER` is
    its place among the figures of its group, the lowest first. The key of its first panel may be
    that of the figure, the name of its file; all other keys of panels begin with it.
    """

    GROUP: str
    ORDER: int
    NAME: str

    def draw(self, findings: Findings) -> Figure | None:
        """Return the figure; without panels where it can say what is missing, or None for none."""


def draw_figures(findings: Findings) -> dict[str, list[Figure]]:
    """Return every figure that there is to draw, in the order of the page, by its group."""
    modules = {key: cast(FigureModule, FIGURES.load(key)) for key in FIGURES.names}
    ordered = sorted(modules.items(), key=lambda item: (item[1].ORDER, item[0]))
    others = sorted({module.GROUP for module in modules.values()} - set(GROUPS))
    drawn = {
        group: [
            replace(figure, key=key, name=figure.name or module.NAME)
            for key, module in ordered
            if group == module.GROUP and (figure := module.draw(findings))
        ]
        for group in (*GROUPS, *others)
    }
    return {group: figures for group, figures in drawn.items() if figures}
