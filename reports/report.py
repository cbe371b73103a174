"""The report: read a finished or interrupted study and write what it found, all or nothing."""

import json
from dataclasses import dataclass
from pathlib import Path

from reports.collect import collect
from reports.findings import find
from reports.page import render_page
from reports.summary import summarise, trials_frame
from storage.artifacts import replacing
from storage.layout import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPaths:
    """What was written, and the verdict in one sentence."""

    headline: str
    html: Path
    json: Path
    csv: Path


def write_report(layout: Layout, name: str, storage_url: str) -> ReportPaths:
    """Write report.html, report.json and trials.csv of the study `name`.

    Raises ArtifactError or StudyError when there is nothing to report on, or a file is damaged.
    """
    findings = find(collect(layout, name, storage_url))
    study = layout.study(name)
    page = render_page(findings)
    with replacing(study.trials_csv) as temporary:
        trials_frame(findings.data).to_csv(temporary, index=False, lineterminator="\n")
    with replacing(study.report_json) as temporary:
        text = json.dumps(summarise(findings), indent=1, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    with replacing(study.report_html) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return ReportPaths(
        headline=findings.verdict.text,
        html=study.report_html,
        json=study.report_json,
        csv=study.trials_csv,
    )
