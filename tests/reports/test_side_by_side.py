"""Several studies side by side, and the result in Markdown for a pull request."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from conductor.command_line.cli import main
from reports.draw.drawing import Table
from reports.draw.side_by_side import SideBySide, compare_studies
from reports.write.markdown import escaped, markdown, markdown_table
from reports.write.page import render_comparison
from reports.write.report import Place, describe, write_comparison
from tests.support.study_fixture import Fabricated, Plan, fabricate

PLANS = (
    Plan(name="helped", trials=8, epochs=4, gain=0.03),
    Plan(name="hurt", trials=8, epochs=6, gain=-0.03, seeds=7),
    Plan(name="open_one", trials=8, epochs=4, confirmed=False),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Fabricated]:
    root = tmp_path_factory.mktemp("studies")
    return [fabricate(root, plan) for plan in PLANS]


def places(made: list[Fabricated]) -> list[Place]:
    return [Place(layout=one.layout, name=one.name, storage_url=one.url) for one in made]


def compare(made: list[Fabricated]) -> SideBySide:
    return compare_studies([place.read() for place in places(made)])


def column(table: Table, name: str) -> list[str]:
    return [row[table.columns.index(name)] for row in table.rows]


def test_each_study_keeps_its_own_verdict(made: list[Fabricated]) -> None:
    studies = compare(made)
    assert studies.title == "Distillation helped in 1 of 3 studies: helped; no verdict in 1"
    assert column(studies.results, "study") == ["helped", "hurt", "open_one"]
    assert column(studies.results, "verdict") == ["better", "worse", "none"]
    assert column(studies.results, "seeds") == ["6", "7", "0"]
    first = places(made)[0].read().verdict.difference
    assert first is not None
    assert column(studies.results, "difference")[0] == f"+{100 * first.mean:.2f} points"


@pytest.mark.parametrize(
    ("chosen", "title"),
    [
        ([0], "Distillation helped in all of 1 study"),
        ([1], "Distillation helped in none of 1 study"),
        ([1, 2], "Distillation helped in none of 2 studies; no verdict in 1"),
        ([2, 2], "No verdict in 2 of 2 studies"),
    ],
)
def test_the_title_counts_the_studies_in_which_distillation_helped(
    made: list[Fabricated], chosen: list[int], title: str
) -> None:
    assert compare([made[place] for place in chosen]).title == title


def test_only_what_differs_between_the_protocols_is_shown(made: list[Fabricated]) -> None:
    assert compare(made).protocols.rows == [["epochs", "4", "6", "4"]]


def test_a_study_without_a_difference_is_named_and_not_drawn(made: list[Fabricated]) -> None:
    studies = compare(made)
    assert studies.warnings == ("Not confirmed yet: open_one",)
    assert studies.chart is not None
    assert [row.label for row in studies.chart.rows] == ["helped: better", "hurt: worse"]
    assert compare(made[2:]).chart is None


def test_studies_on_other_images_are_marked(made: list[Fabricated], tmp_path: Path) -> None:
    other = fabricate(tmp_path, Plan(name="other", trials=4, epochs=4, dataset="ffff"))
    assert "use different images" in compare([made[0], other]).warnings[0]


def test_recipes_stand_side_by_side(made: list[Fabricated]) -> None:
    recipes = compare(made).recipes
    winners = [place.read().data.tuned("scheduled") for place in places(made)[:2]]
    rates = [f"{one.finalist.recipe.lr:.6g}" for one in winners if one]
    (row,) = [row for row in recipes.rows if row[0] == "learning rate"]
    assert list(row) == ["learning rate", *rates, "–"]


def test_the_page_is_one_file_without_scripts(made: list[Fabricated], tmp_path: Path) -> None:
    path = tmp_path / "comparison.html"
    write_comparison(places(made), path)
    page = path.read_text(encoding="utf-8")
    assert "<script" not in page
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert page.count("<svg") == 1


def test_the_page_escapes_text_from_outside(made: list[Fabricated]) -> None:
    studies = compare(made)
    protocols = Table(columns=["protocol", "one"], rows=[["dataset", "folder:<img src=x>"]])
    page = render_comparison(replace(studies, protocols=protocols, warnings=("<i>",)))
    assert "folder:&lt;img src=x&gt;" in page
    assert "&lt;i&gt;" in page


def test_markdown_has_verdict_comparison_caveats_and_command(made: list[Fabricated]) -> None:
    findings = places(made)[0].read()
    text = markdown(findings)
    assert text.startswith("### helped: Distillation helped: tuned scheduled scored ")
    assert text.count("\n| ") == 2 + 1 + len(findings.standings)
    assert all(f"- {escaped(caveat)}\n" in text for caveat in findings.caveats)
    assert text.endswith("    python study.py --trials 8 --name helped\n")


def test_markdown_of_an_unconfirmed_study_says_why_there_is_no_verdict(
    made: list[Fabricated],
) -> None:
    text = markdown(places(made)[2].read())
    assert text.startswith("### open\\_one: No verdict")


def test_cells_cannot_break_out_of_a_table() -> None:
    table = Table(columns=["a|b", "n"], rows=[["x\ny <i>", "1"]], words=1)
    assert markdown_table(table) == "| a\\|b | n |\n| :-- | --: |\n| x y \\<i\\> | 1 |"


def test_json_of_several_studies_is_a_list(made: list[Fabricated]) -> None:
    assert json.loads(describe(places(made)[:1], "json"))["study"]["name"] == "helped"
    several = json.loads(describe(places(made)[:2], "json"))
    assert [one["verdict"]["kind"] for one in several] == ["better", "worse"]


def test_the_command_compares_the_studies_that_are_named(
    made: list[Fabricated], capsys: pytest.CaptureFixture[str]
) -> None:
    root = made[0].layout.root
    assert main(["report", "helped", "hurt", "--root", str(root)]) == 0
    assert capsys.readouterr().out == (
        f"Distillation helped in 1 of 2 studies: helped\nreport: {root / 'comparison.html'}\n"
    )
    assert (root / "comparison.html").exists()


def test_the_command_prints_markdown_alone(
    made: list[Fabricated], capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(made[0].layout.root)
    assert main(["report", "helped", "--format", "markdown", "--root", root]) == 0
    assert capsys.readouterr().out == describe(places(made)[:1], "markdown")


def test_a_study_that_is_not_there_costs_one_line(
    made: list[Fabricated], capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(made[0].layout.root)
    assert main(["report", "helped", "missing", "--root", root]) == 2
    assert "there is no study missing" in capsys.readouterr().err
