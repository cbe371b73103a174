"""The result in Markdown, for a pull request: verdict, comparison, caveats, how to repeat it."""

import re
import shlex
from collections.abc import Sequence

from reports.draw.drawing import Table
from reports.draw.side_by_side import SideBySide
from reports.draw.tables import comparison_note, comparison_table
from reports.findings import Findings

SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~])")  # what GitHub reads as markup amid a line


def markdown(findings: Findings) -> str:
    """Return a study's result as GitHub's Markdown; text from outside is escaped."""
    data = findings.data
    parts = [f"### {escaped(data.name)}: {escaped(findings.verdict.text)}"]
    if findings.standings:
        parts += [markdown_table(comparison_table(findings)), escaped(comparison_note(data))]
    if findings.tuning:
        parts.append(escaped(" ".join(one.text for one in findings.tuning)))
    if findings.caveats:
        parts.append("\n".join(f"- {escaped(caveat)}" for caveat in findings.caveats))
    parts.append(f"    {shlex.join(data.settings.command)}")
    return "\n\n".join(parts) + "\n"


def markdown_of_all(studies: SideBySide) -> str:
    """Return several studies side by side as GitHub's Markdown."""
    tables = [studies.results, studies.protocols, studies.recipes]
    parts = [f"### {escaped(studies.title)}", *(f"- {escaped(one)}" for one in studies.warnings)]
    parts += [markdown_table(table) for table in tables if table.rows]
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """Write a table: columns of words to the left, the others to the right."""
    aligned = [":--" if place < table.words else "--:" for place in range(len(table.columns))]
    lines = [_line(table.columns), f"| {' | '.join(aligned)} |", *map(_line, table.rows)]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(escaped(cell) for cell in cells)} |"


def escaped(text: str) -> str:
    """Escape what Markdown would read as markup, and keep it on one line."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))
