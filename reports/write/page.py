"""The page: findings and figures in one HTML file that loads nothing from the network."""

import json
import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from plotly.io import to_json
from plotly.offline import get_plotlyjs

from reports.compute.budget import searched
from reports.draw.drawing import Figure
from reports.draw.figures import draw_figures
from reports.draw.ledger_tables import (
    epochs_table,
    ledger_caption,
    ledger_title,
    seconds_table,
    teacher_passes,
)
from reports.draw.palette import css_variables, recolouring
from reports.draw.rows import rows_svg
from reports.draw.shared import looks
from reports.draw.side_by_side import SideBySide
from reports.draw.tables import (
    comparison_note,
    comparison_table,
    provenance_table,
    recipe_table,
    seal_table,
    seal_title,
)
from reports.findings import Findings
from reports.read.data import PLAIN, StudyData
from reports.statistics import Difference, mean_and_deviation
from reports.wording import Measure, counted, listed, model_name, percent

HERE = Path(__file__).parent
SIGNS = {"better": "▲", "worse": "▼", "equivalent": "≈", "inconclusive": "?", "none": "–"}
WORDS = {
    "better": "Distillation helped",
    "worse": "Distillation hurt",
    "equivalent": "Equivalent",
    "inconclusive": "Inconclusive",
    "none": "No verdict",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFigure:
    """One of the large numbers of the first screen; `colour` is of the palette, "" for none."""

    name: str
    value: str
    note: str
    colour: str = ""


def render_page(findings: Findings) -> str:
    """Return the report as one HTML document."""
    data = findings.data
    figures = draw_figures(findings)
    return template("report.html.j2").render(
        data=data,
        findings=findings,
        figures=figures,
        plots=_plots(list(chain.from_iterable(figures.values()))),
        sign=SIGNS[findings.verdict.kind],
        word=WORDS[findings.verdict.kind],
        key_figures=key_figures(findings),
        difference=difference_figure(data.measure, findings.verdict.difference),
        mark_at=_mark(data, findings.verdict.difference),
        setting=_setting(data),
        comparison=comparison_table(findings),
        comparison_note=comparison_note(data),
        ledger_title=ledger_title(findings),
        ledger_caption=ledger_caption(data),
        epochs=epochs_table(findings),
        seconds=seconds_table(findings),
        teacher_passes=teacher_passes(findings),
        looks=looks(data),
        seal=seal_table(data),
        seal_title=seal_title(data),
        provenance=provenance_table(data),
        recipes=[(one.label, recipe_table(one.recipe)) for one in data.finalists],
        command=shlex.join(data.settings.command),
        protocol_json=json.dumps(data.protocol.to_json(), indent=1, ensure_ascii=False),
        script=Markup((HERE / "report.js").read_text(encoding="utf-8")),
        plotly=Markup(get_plotlyjs()),
    )


def template(name: str) -> Template:
    """Return a template with what all pages share. Jinja2 escapes everything that is not Markup."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_unbroken,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        css=Markup((HERE / "report.css").read_text(encoding="utf-8")),
        palette=tuple(Markup(css_variables(mode)) for mode in (0, 1)),
    )
    return environment.get_template(name)


def render_comparison(studies: SideBySide) -> str:
    """Return several studies side by side as one HTML document, without JavaScript."""
    drawing = rows_svg(studies.chart, studies.title) if studies.chart else None
    return template("comparison.html.j2").render(studies=studies, drawing=drawing)


def _unbroken(value: Any) -> Any:
    """Keep a number and its % on one line; finished markup is left alone."""
    plain = isinstance(value, str) and not isinstance(value, Markup)
    return value.replace(" %", "\u00a0%") if plain else value


def _plots(figures: list[Figure]) -> Markup:
    """All plots as JSON that is safe inside a script element, by panel key."""
    plots = {
        panel.key: json.loads(to_json(panel.plot, validate=False, remove_uids=True))
        for figure in figures
        for panel in figure.panels
    }
    return htmlsafe_json_dumps({"plots": plots, "dark": recolouring()}, separators=(",", ":"))


def key_figures(findings: Findings) -> list[KeyFigure]:
    """Teacher, tuned distilled and tuned plain student; on the test split once they are tested."""
    data = findings.data
    arms = [arm for arm in (data.primary_arm, PLAIN) if arm and data.arm(arm)]
    return [_teacher_figure(data), *(_arm_figure(data, arm) for arm in arms)]


def _teacher_figure(data: StudyData) -> KeyFigure:
    """The teacher; before its test with the validation accuracy that its training recorded."""
    teacher, name = data.teacher, "Teacher" if len(data.teachers) == 1 else "Best teacher"
    model = model_name(teacher.model)
    if teacher.value is None:
        accuracy = percent(teacher.info.get("accuracy"))
        return KeyFigure(name=name, value=accuracy, note=f"{model}, validation accuracy")
    value = data.measure.value(teacher.value)
    return KeyFigure(name=name, value=value, note=f"{model}, test {data.measure.name}")


def _arm_figure(data: StudyData, arm: str) -> KeyFigure:
    tuned, colour = data.tuned(arm), looks(data)[arm].colour
    name = "Plain student" if arm == PLAIN else "Distilled student"
    if tuned and tuned.values:
        if arm != PLAIN and not tuned.distils:
            name = f"Student of {arm}"
        mean, deviation = mean_and_deviation(tuned.values)
        seeds = counted(len(tuned.values), "seed")
        of = seeds if deviation is None else f"mean ± standard deviation of {seeds}"
        note = f"tuned {arm}, test {data.measure.name}, {of}"
        value = data.measure.with_symbol(data.measure.spread(mean, deviation))
        return KeyFigure(name=name, value=value, note=note, colour=colour)
    opened = data.arm(arm)
    best = opened.best_value if opened else None
    note = f"best of {arm} so far, validation {data.measure.name}, too good as the best of many"
    value = data.measure.value(best)
    return KeyFigure(name=name, value=value, note=note, colour=colour)


def difference_figure(measure: Measure, difference: Difference | None) -> KeyFigure | None:
    if difference is None:
        return None
    interval = f"95 % interval {measure.interval(difference.low, difference.high)}"
    median = f"median {measure.number(difference.median, sign=True)}"
    return KeyFigure(
        name="Difference",
        value=measure.number(difference.mean, sign=True),
        note=", ".join(filter(None, (measure.unit, interval, median))),
    )


def _mark(data: StudyData, difference: Difference | None) -> dict[str, float] | None:
    """The difference as a small drawing: places in per cent of its width."""
    margin, measure = data.protocol.margin, data.measure
    if difference is None:
        return None
    low, high = measure.ends(difference.low, difference.high)
    left, right = min(low, -margin, 0.0), max(high, margin, 0.0)
    room = 0.06 * (right - left) or 1.0
    left, right = left - room, right + room

    def place(value: float) -> float:
        return round(100 * (value - left) / (right - left), 2)

    return {
        "low": place(low),
        "mean": place(measure.scale * difference.mean),
        "high": place(high),
        "zero": place(0.0),
        "band_start": place(-margin),
        "band_width": round(place(margin) - place(-margin), 2),
    }


def _setting(data: StudyData) -> str:
    """Describe the study in one line."""
    protocol, sizes = data.protocol, data.images
    images = ", ".join(
        f"{sizes[name]} {name}" for name in ("train", "validation", "test") if name in sizes
    )
    trials = f"trials: {listed([f'{len(arm.counted)} of {arm.name}' for arm in data.arms])}"
    if data.by_promotion:
        trials = "; ".join(f"{arm.name}: {searched(data, arm)}" for arm in data.arms)
    teachers = listed([model_name(teacher.model) for teacher in data.teachers])
    students = " or ".join(map(model_name, protocol.students))
    images = f" ({images} {data.example}s)" if images else ""
    return (
        f"{teachers} to {students} on {model_name(protocol.dataset)}{images}; "
        f"{counted(protocol.epochs, 'epoch')} per {'training' if data.by_promotion else 'trial'}; "
        f"{trials}; "
        f"metric {data.measure.name}, margin {data.measure.margin(protocol.margin)}"
    )
