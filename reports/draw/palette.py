"""Colours and signs of the report, the same in figures and page, in light and in dark.

The hues are those of Okabe and Ito ("Color universal design", 2008), which colour-blind readers can
tell apart; the dark ones are lightened to keep their contrast. No meaning hangs on colour alone:
every series also has its own marker and dash.
"""

from dataclasses import dataclass

from reports.read.data import PLAIN

# name: (light, dark); figures are made in light and recoloured in the page
PALETTE = {
    "blue": ("#0072b2", "#56b4e9"),
    "vermillion": ("#d55e00", "#f0883e"),
    "green": ("#009e73", "#3cc79b"),
    "purple": ("#b0568d", "#e29ac4"),
    "ochre": ("#a67c00", "#e6c229"),
    "grey": ("#6b7480", "#98a2ae"),
    "faint": ("#a9b1bb", "#67717d"),
    "ink": ("#1a1d21", "#e9ecef"),
    "muted": ("#59626d", "#a3adb8"),
    "grid": ("#e4e7eb", "#2b3138"),
    "band": ("#eceff3", "#252b32"),
    "page": ("#fefefe", "#14171a"),
    "raised": ("#f6f7f9", "#1b1f23"),
}


@dataclass(frozen=True, slots=True)
class Look:
    """How a series is drawn: a name of the palette, a marker and a dash of Plotly's."""

    colour: str
    symbol: str
    dash: str

    @property
    def light(self) -> str:
        return PALETTE[self.colour][0]


TEACHER_LOOK = Look("ink", "star", "solid")
PLAIN_LOOK = Look("vermillion", "diamond", "dash")
DISTILLED_LOOKS = (
    Look("blue", "circle", "solid"),
    Look("green", "square", "dot"),
    Look("purple", "triangle-up", "dashdot"),
    Look("ochre", "pentagon", "longdash"),
)


def light(name: str) -> str:
    return PALETTE[name][0]


def arm_looks(arms: list[str]) -> dict[str, Look]:
    """Give plain its own look and the others theirs in order, again from the start after four."""
    others = [arm for arm in arms if arm != PLAIN]
    looks = {arm: DISTILLED_LOOKS[place % 4] for place, arm in enumerate(others)}
    return {**looks, PLAIN: PLAIN_LOOK}


def css_variables(mode: int) -> str:
    """Return the palette as CSS custom properties; `mode` 0 is light, 1 dark."""
    return " ".join(f"--{name}: {pair[mode]};" for name, pair in PALETTE.items())


def recolouring() -> dict[str, str]:
    """Map every light colour to its dark one, for figures."""
    return dict(PALETTE.values())
