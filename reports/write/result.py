"""What `study.run` returns: a study's findings in short, with the figures of report.json."""

from dataclasses import dataclass
from pathlib import Path

from kd.recipe import Recipe
from reports.findings import Findings
from reports.write.summary import summarise


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean with the ends of its 95 % interval, None if unknown."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedFinalist:
    """A recipe that was confirmed: `role` is tuned or default, `value` the metric on the test split
    over its seeds (a share in 0-1, or in nats), None if it was not tested.
    """

    name: str
    title: str
    arm: str
    role: str
    student: str
    value: Interval | None
    recipe: Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The findings of a study.

    `verdict` is better, worse, equivalent, inconclusive or none, and `text` states it. `difference`
    is the tuned distilled recipe minus the tuned plain one, in the metric's unit, such as points of
    accuracy. `recipe` is the tuned one that the verdict is about, else the plain one, None if there
    is neither. `path` is the report's page; report.json, beside it, has all figures.
    """

    verdict: str
    text: str
    difference: Interval | None
    finalists: tuple[ReportedFinalist, ...]
    recipe: Recipe | None
    limitations: tuple[str, ...]
    path: Path

    def __str__(self) -> str:
        return f"{self.text}\n{self.path}"


def report_of(findings: Findings, path: Path) -> Report:
    """Return the report of these findings, whose page is at `path`."""
    summary = summarise(findings)
    verdict, found = summary["verdict"], findings.verdict
    tuned = found.a or found.b
    difference = verdict["difference"]
    return Report(
        verdict=verdict["kind"],
        text=verdict["text"],
        difference=difference
        and Interval(mean=difference["mean"], low=difference["low"], high=difference["high"]),
        finalists=tuple(
            ReportedFinalist(
                **{key: one[key] for key in ("name", "title", "arm", "role", "student")},
                value=_value(one["mean"], one["interval"]),
                recipe=standing.finalist.recipe,
            )
            for one, standing in zip(summary["finalists"], findings.standings, strict=True)
        ),
        recipe=tuned.recipe if tuned else None,
        limitations=tuple(summary["caveats"]),
        path=path,
    )


def _value(mean: float | None, interval: list[float] | None) -> Interval | None:
    if mean is None:
        return None
    low, high = interval or (None, None)
    return Interval(mean=mean, low=low, high=high)
