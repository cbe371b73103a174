"""The report: read finished or interrupted studies and write what they found, all or nothing."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from reports.draw.pictures import read_examples
from reports.draw.side_by_side import compare_studies
from reports.findings import Findings, find
from reports.read.collect import collect
from reports.write.markdown import markdown, markdown_of_all
from reports.write.page import render_comparison, render_page
from reports.write.result import Report, report_of
from reports.write.summary import summarise
from reports.write.trials import trials_frame
from storage.files.artifacts import replacing
from storage.files.layout import Layout

UNENCODABLE: Final = "backslashreplace"  # names of files need not be UTF-8


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPaths:
    """What was written, the verdict in one sentence, and the findings in short."""

    headline: str
    html: Path
    json: Path
    csv: Path
    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a study is: its root, its name, and the URL of its trials."""

    layout: Layout
    name: str
    storage_url: str

    def read(self) -> Findings:
        return find(collect(self.layout, self.name, self.storage_url))


def describe(places: Sequence[Place], form: str) -> str:
    """Return one study, or several side by side, as `markdown` or `json`."""
    findings = [place.read() for place in places]
    if form == "json":
        summaries = [summarise(one) for one in findings]
        return _json(summaries if len(summaries) > 1 else summaries[0])
    if len(findings) == 1:
        return markdown(findings[0])
    return markdown_of_all(compare_studies(findings))


def write_comparison(places: Sequence[Place], path: Path) -> str:
    """Write a page about several studies side by side, and return its title."""
    studies = compare_studies([place.read() for place in places])
    with replacing(path) as temporary:
        text = render_comparison(studies)
        temporary.write_text(text, encoding="utf-8", errors=UNENCODABLE)
    return studies.title


def _json(content: Any) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def write_report(layout: Layout, name: str, storage_url: str) -> ReportPaths:
    """Write report.html, report.json and trials.csv of the study `name`.

    Raises ArtifactError or StudyError when there is nothing to report on, or a file is damaged.
    """
    findings = find(collect(layout, name, storage_url))
    study = layout.study(name)
    page = render_page(replace(findings, images=read_examples(layout, findings)))
    frame, summary = trials_frame(findings.data), _json(summarise(findings))
    with replacing(study.trials_csv) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n", errors=UNENCODABLE)
    with replacing(study.report_json) as temporary:
        temporary.write_text(summary, encoding="utf-8")
    with replacing(study.report_html) as temporary:
        temporary.write_text(page, encoding="utf-8", errors=UNENCODABLE)
    return ReportPaths(
        headline=findings.verdict.text,
        html=study.report_html,
        json=study.report_json,
        csv=study.trials_csv,
        report=report_of(findings, study.report_html),
    )
