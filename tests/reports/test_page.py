"""The page of a fabricated study: its figures, that it is complete, and that it is safe."""

import itertools
import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from reports.compute.findings import Findings, find
from reports.draw.drawing import Figure
from reports.draw.palette import recolouring
from reports.draw.rows import ticks
from reports.draw.tables import comparison_table, provenance_table
from reports.read.collect import collect
from reports.read.data import ArmData, TrialData
from reports.write.page import key_figures, render_page
from reports.write.report import write_report
from reports.write.summary import summarise
from storage.files.artifacts import read_json, write_json
from storage.files.records import Finalists, StudySettings
from tests.support.study_fixture import Fabricated, Plan, drawn_figures, fabricate

ROOT = Path(__file__).parents[2]
SMALL = Plan(name="small", trials=12, epochs=4, images=80)
HOSTILE = "</script><script>document.documentElement.dataset.hacked=1</script><img src=x onerror=a>"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Fabricated:
    """A study with ablations, as a user would have it, with its report written."""
    study = fabricate(tmp_path_factory.mktemp("study"), Plan(ablated=True))
    write_report(study.layout, study.name, study.url)
    return study


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Fabricated:
    return fabricate(tmp_path_factory.mktemp("small"), SMALL)


@pytest.fixture
def copied(small: Fabricated, tmp_path: Path) -> Fabricated:
    """A copy of the small study, to be spoilt."""
    shutil.copytree(small.layout.root, tmp_path / "runs")
    return replace(small, layout=replace(small.layout, root=tmp_path / "runs"))


@pytest.fixture(scope="module")
def findings(made: Fabricated) -> Findings:
    return find(collect(made.layout, made.name, made.url))


class Links(HTMLParser):
    """Collects every attribute through which a page can ask for something."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "action", "data", "poster", "srcset", "background"):
                self.found.append(value or "")
            if name == "id":
                self.ids.append(value or "")


def test_no_request_leaves_the_page(made: Fabricated) -> None:
    page = made.study.report_html.read_text(encoding="utf-8")
    links = Links()
    links.feed(page)
    inside = ("#", "data:,", "data:image/png;base64,")
    assert [link for link in links.found if not link.startswith(inside)] == []
    assert "default-src 'none'" in page
    style = page[page.index("<style>") : page.index("</style>")]
    assert "@import" not in style
    assert "url(" not in style


def test_everything_that_can_be_named_has_a_name_and_no_two_regions_share_one(
    made: Fabricated,
) -> None:
    page = made.study.report_html.read_text(encoding="utf-8").split("<script", 1)[0]
    regions = re.findall(r'role="region" aria-label="([^"]+)"', page)
    assert len(regions) == page.count('role="region"') > 20
    assert len(set(regions)) == len(regions)
    assert len(re.findall(r'role="img" aria-label="[^"]+"', page)) == page.count('role="img"')
    assert len(re.findall(r'<img [^>]*alt="[^"]+"', page)) == page.count("<img ") > 0
    assert page.count("<h1") == 1


def test_a_reader_without_javascript_has_every_table_and_the_main_figures_drawn(
    made: Fabricated,
) -> None:
    page = made.study.report_html.read_text(encoding="utf-8").split("<script", 1)[0]
    assert page.count('<svg class="rows"') == 6  # seeds, differences, ablations, classes, fidelity
    sections = re.findall(r'<section id="(\w+)">(.*?)</section>', page, re.DOTALL)
    assert len(sections) > 10
    for key, section in sections:
        if "data-plot" in section:
            assert "<table>" in section, key


def test_contents_name_every_figure_by_its_group_in_the_order_of_the_page(made: Fabricated) -> None:
    page = made.study.report_html.read_text(encoding="utf-8").split("<script", 1)[0]
    contents = re.search(r"<nav.*?</nav>", page, re.DOTALL)
    assert contents is not None
    assert re.findall(r"<span>(\w+)</span>", contents[0]) == [
        "Evidence", "Recipe", "Search", "Record",
    ]  # fmt: skip
    named = re.findall(r'href="#(\w+)"', contents[0])
    assert named == re.findall(r'<section id="(\w+)">', page)
    assert named[:2] == ["seeds", "differences"]
    assert named[-4:] == ["optimism", "ledger", "seal", "provenance"]


def test_contents_lead_to_sections_that_exist_once(made: Fabricated) -> None:
    links = Links()
    links.feed(made.study.report_html.read_text(encoding="utf-8"))
    assert len(links.ids) == len(set(links.ids))
    assert {link[1:] for link in links.found if link.startswith("#")} <= set(links.ids)


def test_plotly_is_embedded_once_and_the_page_stays_small(made: Fabricated) -> None:
    page = made.study.report_html.read_text(encoding="utf-8")
    assert page.count("plotly.js v") == 1
    assert len(page.encode()) < 5_500_000


def test_report_of_a_thousand_trials_stays_below_eight_megabytes(findings: Findings) -> None:
    data = findings.data
    arms = tuple(
        replace(arm, trials=tuple(_longer(arm, number) for number in range(1000)))
        for arm in data.arms
    )
    page = render_page(find(replace(data, arms=arms)))
    assert len(page.encode()) < 8_000_000


def _longer(arm: ArmData, number: int) -> TrialData:
    """A trial of 60 epochs."""
    trial = arm.trials[number % len(arm.trials)]
    accuracy = 0.9 + (number * 7919 % 1000) / 12_345
    return replace(trial, number=number, values=dict.fromkeys(range(1, 61), accuracy))


def test_every_figure_states_its_finding_with_text_and_table_behind_it(findings: Findings) -> None:
    figures = drawn_figures(findings)
    drawn = [item for item in figures if item.panels]
    assert {item.key for item in figures} - {item.key for item in drawn} == set()
    assert len(drawn) == 15
    for item in drawn:
        assert item.caption
        assert item.tables
        assert all(panel.alt for panel in item.panels)
        assert all(picture.alt for gallery in item.galleries for picture in gallery.pictures)
        assert re.search(r"\d|overlap", item.title), item.title
        for table in item.tables:
            assert all(len(row) == len(table.columns) for row in table.rows)


def by_key(findings: Findings, key: str) -> Figure:
    return next(item for item in drawn_figures(findings) if item.key == key)


def test_titles_follow_the_data(findings: Findings) -> None:
    scheduled = findings.data.arms[0].best
    assert scheduled is not None
    assert scheduled.value is not None
    history = by_key(findings, "history")
    assert f"{100 * scheduled.value:.1f} % with trial {scheduled.number}" in history.title
    cut = sum(trial.state == "PRUNED" for arm in findings.data.arms for trial in arm.trials)
    assert f"cut {cut} of 40 trials" in by_key(findings, "curves").title
    assert "on 6 of 6 seeds" in by_key(findings, "differences").title
    assert "would have cut 5 of 8 auditors" in by_key(findings, "audit").title
    assert "of 2 ablations" in by_key(findings, "ablations").title


def test_the_cards_say_what_follows_the_plus_minus_sign(findings: Findings) -> None:
    for card in key_figures(findings)[1:]:
        assert "±" in card.value
        assert card.note.endswith("test accuracy, mean ± standard deviation of 6 seeds")


def test_a_default_that_won_has_one_row_with_the_tuned_recipe(findings: Findings) -> None:
    data = findings.data
    default = next(one for one in data.of_role("default") if one.finalist.arm == "plain")
    winner = replace(default, finalist=replace(default.finalist, role="tuned", title="tuned"))
    others = [one for one in data.finalists if one is not data.tuned("plain")]
    found = find(replace(data, finalists=(*others, winner)))
    names = [row[0] for row in comparison_table(found).rows]
    assert len(names) == len(comparison_table(findings).rows) - 1
    assert [name for name in names if name.startswith("plain")] == ["plain: tuned = defaults"]
    for key in ("seeds", "fidelity", "costs"):
        rows = [row[0] for row in by_key(found, key).tables[0].rows]
        assert [row for row in rows if row.startswith("plain")] == ["plain: tuned = defaults"]
    assert len(summarise(found)["finalists"]) == len(summarise(findings)["finalists"])


def test_the_digest_of_a_file_is_in_no_table_and_no_card_but_in_the_provenance(
    findings: Findings,
) -> None:
    digest = "f51b6816a22c"
    teacher, student = f"convnext.py:teacher@{digest}", f"convnext.py:student@{digest}"
    protocol = replace(findings.data.protocol, teacher=teacher, students=(student, "resnet8"))
    page = render_page(find(replace(findings.data, protocol=protocol)))
    first = page[page.index('<header id="result">') : page.index('<section id="ledger">')]
    assert "convnext.py:teacher" in first
    assert "convnext.py:student" in first
    assert digest not in first
    assert teacher in page[page.index('<section id="provenance">') :]


def test_what_was_passed_over_of_a_folder_is_in_the_provenance(findings: Findings) -> None:
    sentence = "passed over in /photos: val/ (18 images)"
    settings = replace(findings.data.settings, passed_over=sentence)
    assert ["not read", sentence] in provenance_table(
        replace(findings.data, settings=settings)
    ).rows
    assert "not read" not in [row[0] for row in provenance_table(findings.data).rows]


def test_the_provenance_says_which_parts_are_the_data_set_s_own(findings: Findings) -> None:
    def rows(official: tuple[str, ...]) -> list[list[str]]:
        return provenance_table(replace(findings.data, official=official)).rows

    assert ["split", "validation and test are drawn"] in rows(())
    assert ["split", "test is the data set's own, validation is drawn"] in rows(("test",))
    whole = ("train", "validation", "test")
    assert ["split", "train, validation and test are the data set's own"] in rows(whole)


def test_seeds_figure_draws_every_seed_of_every_finalist(findings: Findings) -> None:
    panel = by_key(findings, "seeds").panels[0]
    drawn = [len(trace["x"]) for trace in panel.plot["data"] if "customdata" in trace]
    assert drawn == [6] * 5
    assert panel.fallback.count("<circle") == 30


def test_pruned_trials_are_marked_apart(findings: Findings) -> None:
    traces = by_key(findings, "history").panels[0].plot["data"]
    pruned, diverged, completed = traces[:3]
    arm = findings.data.arms[0]
    assert len(pruned["x"]) == arm.count("PRUNED")
    assert len(diverged["x"]) == 1
    assert len(completed["x"]) == arm.count("COMPLETE") - 1
    symbols = {trace["marker"]["symbol"] for trace in (pruned, diverged, completed)}
    assert len(symbols) == 3


def colours_of(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for item in value.values():
            yield from colours_of(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from colours_of(item)
    elif isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{3,8}", value):
        yield value


def test_every_colour_of_a_figure_has_a_dark_one(findings: Findings) -> None:
    plots = [panel.plot for item in drawn_figures(findings) for panel in item.panels]
    used = {
        colour
        for plot in plots
        for colour in colours_of(
            json.loads(
                json.dumps(
                    plot,
                    default=lambda each: (
                        each.to_plotly_json() if hasattr(each, "to_plotly_json") else each.tolist()
                    ),
                )
            )
        )
    }
    assert len(used) > 5
    assert used <= set(recolouring())
    assert len(recolouring()) == len(set(recolouring().values()))


def test_importances_are_drawn_in_per_cent(findings: Findings) -> None:
    bars = by_key(findings, "importances").panels[-1].plot["data"][0]
    assert sum(bars["x"]) == pytest.approx(100)


def spoil(study: Fabricated) -> None:
    """Put hostile text wherever a study's files take text from outside."""
    settings = StudySettings.read(study.study.settings)
    replace(
        settings,
        command=["python", "study.py", HOSTILE],
        machine={HOSTILE: HOSTILE},
        versions={"python": HOSTILE},
    ).write(study.study.settings)
    protocol = read_json(study.study.protocol)
    write_json(study.study.protocol, {**protocol, "dataset": f"folder:/data/{HOSTILE}"})
    finalists = Finalists.read(study.study.finalists)
    renamed = [replace(one, title=HOSTILE) for one in finalists.finalists]
    replace(finalists, finalists=renamed).write(study.study.finalists)
    openings = [*read_json(study.study.seal)["openings"], {"time": HOSTILE, "purpose": HOSTILE}]
    write_json(study.study.seal, {"openings": openings})
    manifest = study.layout.dataset(settings.dataset) / "manifest.json"
    content = read_json(manifest)
    content["info"]["classes"][0] = HOSTILE
    write_json(manifest, content)


def test_text_from_outside_is_escaped_everywhere(copied: Fabricated) -> None:
    spoil(copied)
    paths = write_report(copied.layout, copied.name, copied.url)
    page = paths.html.read_text(encoding="utf-8")
    assert "<script>document" not in page
    assert page.count("&lt;img src=x") > 10
    links = Links()
    links.feed(page)
    assert links.tags.count("script") == 3
    shown = page.split("<script>", 1)[0]
    assert links.tags.count("img") == shown.count('src="data:image/png;base64,') > 0
    plots = re.search(r'id="plots">(.*?)</script>', page, re.DOTALL)
    assert plots is not None
    assert "<" not in plots[1]
    labels = [
        note["text"]
        for plot in json.loads(plots[1])["plots"].values()
        for note in plot["layout"].get("annotations", ())
    ]
    assert any("&lt;script&gt;" in label for label in labels)
    assert not any("<" in label for label in labels)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (94.1, 98.2), (-1.3, 2.9), (0.0, 0.003)])
def test_ticks_are_round_and_lie_inside_the_axis(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 3 <= len(found) <= 8
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)
    steps = {round(b - a, 9) for a, b in itertools.pairwise(found)}
    assert len(steps) == 1
    step = steps.pop()
    assert round(step / 10 ** math.floor(math.log10(step)), 6) in (1, 2, 5)


BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)


FRAME = """<!doctype html><iframe src="report.html" style="width: 400px; height: 800px"></iframe>
<script>
const frame = document.querySelector("iframe");
setInterval(() => {
  const root = frame.contentDocument?.documentElement;
  const plots = frame.contentDocument.querySelectorAll(".plot .main-svg").length;
  if (!root?.dataset.drawn) return;
  const found = { ...root.dataset, width: root.scrollWidth, plots };
  document.documentElement.dataset.found = encodeURIComponent(JSON.stringify(found));
}, 50);
</script>"""


@pytest.fixture(scope="module")
def opened(small: Fabricated, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Open the report of a spoilt study in Chromium, 400 px wide; say what came of it."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    folder = tmp_path_factory.mktemp("opened")
    shutil.copytree(small.layout.root, folder / "runs")
    study = replace(small, layout=replace(small.layout, root=folder / "runs"))
    spoil(study)
    page = write_report(study.layout, study.name, study.url).html
    frame = page.with_name("frame.html")
    frame.write_text(FRAME, encoding="utf-8")
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--allow-file-access-from-files",
        "--enable-logging=stderr",
        "--window-size=1200,900",
        "--virtual-time-budget=10000",
        f"--user-data-dir={folder / 'profile'}",
        "--dump-dom",
        frame.as_uri(),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    answer = re.search(r'data-found="([^"]+)"', ran.stdout)
    assert answer is not None, ran.stderr
    found: dict[str, Any] = json.loads(unquote(answer[1]))
    found["console"] = [line for line in ran.stderr.splitlines() if "CONSOLE" in line]
    figures = drawn_figures(find(collect(study.layout, study.name, study.url)))
    found["panels"] = sum(len(item.panels) for item in figures)
    return found


@pytest.mark.browser
def test_every_figure_is_drawn_in_a_browser_and_nothing_fails(opened: dict[str, Any]) -> None:
    assert opened["drawn"] == str(opened["panels"])
    assert opened["plots"] >= opened["panels"] > 10
    assert opened["errors"] == ""
    assert opened["console"] == []


@pytest.mark.browser
def test_hostile_text_does_not_run_in_a_browser(opened: dict[str, Any]) -> None:
    assert "hacked" not in opened


@pytest.mark.browser
def test_page_does_not_scroll_sideways_on_a_phone(opened: dict[str, Any]) -> None:
    assert opened["width"] <= 400
