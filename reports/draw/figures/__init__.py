"""The report's figures: each module of this folder is one, and the page draws all of them."""

from dataclasses import replace
from typing import Protocol, cast

from kd.registry import Kind
from reports.compute.findings import Findings
from reports.draw.drawing import Figure

FIGURES = Kind("figure", __name__)
GROUPS = ("Evidence", "Recipe", "Search")  # headings of the page's contents; others follow them


class FigureModule(Protocol):
    """What a module of this folder offers.

    `GROUP` is the heading of the page's contents that lists the figure, by its `NAME`; `ORDER` is
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
    places = {group: place for place, group in enumerate(GROUPS)}
    modules = [(key, cast(FigureModule, FIGURES.load(key))) for key in FIGURES.names]
    drawn: dict[str, list[Figure]] = {}
    for key, module in sorted(
        modules,
        key=lambda item: (
            places.get(item[1].GROUP, len(GROUPS)),
            item[1].GROUP,
            item[1].ORDER,
            item[0],
        ),
    ):
        figure = module.draw(findings)
        if figure is not None:
            drawn.setdefault(module.GROUP, []).append(replace(figure, key=key, name=module.NAME))
    return drawn
