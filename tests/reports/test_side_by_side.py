"""Several studies side by side, and the result in Markdown for a pull request."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from conductor.command_line.cli import main
from reports.draw.drawing import Table
from reports.draw.side_by_side import SideBySide, compare_studies
from reports.findings import Findings, find
from reports.write.markdown import escaped, markdown, markdown_table
from reports.write.page import render_comparison
from reports.write.report import Place, describe
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


@pytest.fixture(scope="module")
def places(made: list[Fabricated]) -> list[Place]:
    return [Place(layout=one.layout, name=one.name, storage_url=one.url) for one in made]


@pytest.fixture(scope="module")
def found(places: list[Place]) -> list[Findings]:
    return [place.read() for place in places]


@pytest.fixture(scope="module")
def studies(found: list[Findings]) -> SideBySide:
    return compare_studies(found)


def test_each_study_keeps_its_own_verdict_and_recipe(
    studies: SideBySide, found: list[Findings]
) -> None:
    results = [dict(zip(studies.results.columns, row, strict=True)) for row in studies.results.rows]
    assert [row["study"] for row in results] == ["helped", "hurt", "open_one"]
    assert [row["verdict"] for row in results] == ["better", "worse", "none"]
    assert [row["seeds"] for row in results] == ["6", "7", "0"]
    difference = found[0].verdict.difference
    assert results[0]["difference"] == f"+{100 * difference.mean:.2f} points"
    winners = [one.data.tuned("scheduled") for one in found[:2]]
    rates = [f"{one.recipe.lr:.6g}" for one in winners if one]
    assert ["learning rate", *rates, "–"] in [list(row) for row in studies.recipes.rows]
    assert studies.protocols.rows == [["epochs", "4", "6", "4"]]  # only what differs


def test_a_winner_that_was_not_tested_has_no_result(found: list[Findings]) -> None:
    data = found[0].data
    untested = tuple(replace(one, runs=()) for one in data.finalists)
    results = compare_studies([find(replace(data, finalists=untested))]).results
    row = dict(zip(results.columns, results.rows[0], strict=True))
    assert row["tuned distilled"] == row["tuned plain"] == "–"


@pytest.mark.parametrize(
    ("chosen", "title"),
    [
        ([0, 1, 2], "Distillation helped in 1 of 3 studies: helped; no verdict in 1"),
        ([0], "Distillation helped in all of 1 study"),
        ([1], "Distillation helped in none of 1 study"),
        ([1, 2], "Distillation helped in none of 2 studies; no verdict in 1"),
        ([2, 2], "No verdict in 2 of 2 studies"),
    ],
)
def test_the_title_counts_the_studies_in_which_distillation_helped(
    found: list[Findings], chosen: list[int], title: str
) -> None:
    assert compare_studies([found[place] for place in chosen]).title == title


def test_a_study_without_a_difference_is_named_and_not_drawn(
    studies: SideBySide, found: list[Findings]
) -> None:
    assert studies.warnings == ("Not confirmed yet: open_one",)
    assert [row.label for row in studies.chart.rows] == ["helped: better", "hurt: worse"]
    assert compare_studies(found[2:]).chart is None


def test_studies_on_other_images_are_marked(found: list[Findings]) -> None:
    data = found[0].data
    other = replace(data, settings=replace(data.settings, dataset="ffff"))
    assert "use different images" in compare_studies([found[0], find(other)]).warnings[0]


def test_the_page_is_one_file_without_scripts_and_escapes_text_from_outside(
    studies: SideBySide,
) -> None:
    protocols = Table(columns=["protocol", "one"], rows=[["dataset", "folder:<img src=x>"]])
    page = render_comparison(replace(studies, protocols=protocols, warnings=("<i>",)))
    assert "<script" not in page
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert page.count("<svg") == 1
    assert "folder:&lt;img src=x&gt;" in page
    assert "&lt;i&gt;" in page


def test_markdown_has_verdict_comparison_caveats_and_command(found: list[Findings]) -> None:
    text = markdown(found[0])
    assert text.startswith("### helped: Distillation helped: tuned scheduled scored ")
    assert text.count("\n| ") == 2 + 1 + len(found[0].distinct)
    assert all(f"- {escaped(caveat)}\n" in text for caveat in found[0].caveats)
    assert text.endswith("    python study.py --trials 8 --name helped\n")
    assert markdown(found[2]).startswith("### open\\_one: No verdict")


def test_cells_cannot_break_out_of_a_table() -> None:
    table = Table(columns=["a|b", "n"], rows=[["x\ny <i>", "1"]], words=1)
    assert markdown_table(table) == "| a\\|b | n |\n| :-- | --: |\n| x y \\<i\\> | 1 |"


def test_json_of_several_studies_is_a_list(places: list[Place]) -> None:
    assert json.loads(describe(places[:1], "json"))["study"]["name"] == "helped"
    several = json.loads(describe(places[:2], "json"))
    assert [one["verdict"]["kind"] for one in several] == ["better", "worse"]


def test_the_command_compares_the_studies_that_are_named_or_prints_one(
    places: list[Place], capsys: pytest.CaptureFixture[str]
) -> None:
    root = places[0].layout.root
    assert main(["report", "helped", "hurt", "--root", str(root)]) == 0
    page: Path = root / "comparison.html"
    title = "Distillation helped in 1 of 2 studies: helped"
    assert capsys.readouterr().out == f"{title}\nreport: {page}\n"
    assert title in page.read_text(encoding="utf-8")
    assert main(["report", "helped", "--format", "markdown", "--root", str(root)]) == 0
    assert capsys.readouterr().out == describe(places[:1], "markdown")
    assert main(["report", "helped", "missing", "--root", str(root)]) == 2
    assert "there is no study missing" in capsys.readouterr().err
