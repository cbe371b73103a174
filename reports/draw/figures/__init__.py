"""The report's figures: each module of this folder is one, and the page draws all of them."""

from collections.abc import Iterator
from typing import Protocol, cast

from kd.registry import Kind
from reports.compute.findings import Findings
from reports.draw.drawing import Figure

FIGURES = Kind("figure", __name__)
GROUPS = ("Evidence", "Recipe", "Search")  # headings of the page's contents; others follow them


class FigureModule(Protocol):
    """What a module of this folder offers.

    `GROUP` is the heading of the page's contents that lists the figure; `ORDER` is its place among
    the figures of its group, the lowest first. Names may repeat no key of another figure or panel.
    """

    GROUP: str
    ORDER: int

    def draw(self, findings: Findings) -> Figure | None:
        """Return the figure; without panels where it can say what is missing, or None for none."""


def draw_figures(findings: Findings) -> dict[str, list[Figure]]:
    """Return every figure that there is to draw, in the order of the page, by its group."""
    drawn: dict[str, list[Figure]] = {}
    for module in _ordered():
        made = module.draw(findings)
        if made is not None:
            drawn.setdefault(module.GROUP, []).append(made)
    return drawn


def _ordered() -> Iterator[FigureModule]:
    places = {group: place for place, group in enumerate(GROUPS)}
    modules = [(name, cast(FigureModule, FIGURES.load(name))) for name in FIGURES.names]
    modules.sort(
        key=lambda one: (places.get(one[1].GROUP, len(GROUPS)), one[1].GROUP, one[1].ORDER, one[0])
    )
    return (module for _, module in modules)
