"""The page of a fabricated study: its figures, that it is complete, and that it is safe."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from kd.json_data import to_wire
from reports.findings import Findings, find
from reports.read.trials import ArmData, TrialData
from reports.write.page import key_figures, render_page
from reports.write.report import write_report
from storage.files.artifacts import read_json, write_json
from storage.files.records import Finalists, StudySettings
from tests.support.small import square
from tests.support.study_fixture import Fabricated, card_of, drawn_figures, with_teacher

ROOT = Path(__file__).parents[2]
HOSTILE = "</script><script>document.documentElement.dataset.hacked=1</script><img src=x onerror=a>"


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


def test_the_page_is_complete_in_itself_and_links_to_sections_that_exist_once(page: str) -> None:
    links = Links()
    links.feed(page)
    inside = ("#", "data:,", "data:image/png;base64,")
    assert [link for link in links.found if not link.startswith(inside)] == []
    assert "default-src 'none'" in page
    style = page[page.index("<style>") : page.index("</style>")]
    assert "@import" not in style
    assert "url(" not in style
    assert len(links.ids) == len(set(links.ids))
    assert {link[1:] for link in links.found if link.startswith("#")} <= set(links.ids)
    assert page.count("plotly.js v") == 1
    assert len(page.encode()) < 5_500_000


def test_everything_that_can_be_named_has_a_name_and_no_two_regions_share_one(
    page: str,
) -> None:
    page = page.split("<script", 1)[0]
    regions = re.findall(r'role="region" aria-label="([^"]+)"', page)
    assert len(regions) == page.count('role="region"') > 20
    assert len(set(regions)) == len(regions)
    assert len(re.findall(r'role="img" aria-label="[^"]+"', page)) == page.count('role="img"')
    assert len(re.findall(r'<img [^>]*alt="[^"]+"', page)) == page.count("<img ") > 0
    assert page.count("<h1") == 1


def test_a_reader_without_javascript_has_every_table_and_the_main_figures_drawn(
    page: str,
) -> None:
    page = page.split("<script", 1)[0]
    assert page.count('<svg class="rows"') == 6  # seeds, differences, ablations, classes, fidelity
    sections = re.findall(r'<section id="(\w+)">(.*?)</section>', page, re.DOTALL)
    assert len(sections) > 10
    for key, section in sections:
        if "data-plot" in section:
            assert "<table>" in section, key


def test_contents_name_every_figure_by_its_group_in_the_order_of_the_page(page: str) -> None:
    page = page.split("<script", 1)[0]
    contents = re.search(r"<nav.*?</nav>", page, re.DOTALL)
    assert re.findall(r"<span>(\w+)</span>", contents[0]) == [
        "Evidence", "Recipe", "Search", "Record",
    ]  # fmt: skip
    named = re.findall(r'href="#(\w+)"', contents[0])
    assert named == re.findall(r'<section id="(\w+)">', page)
    assert named[:2] == ["seeds", "differences"]
    assert named[-4:] == ["optimism", "ledger", "seal", "provenance"]


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


def test_the_cards_say_what_follows_the_plus_minus_sign(findings: Findings) -> None:
    for card in key_figures(findings)[1:]:
        assert "±" in card.value
        assert card.note.endswith("test accuracy, mean ± standard deviation of 6 seeds")


def test_the_digest_of_a_file_is_in_no_table_and_no_card_but_in_the_provenance(
    findings: Findings,
) -> None:
    digest = "f51b6816a22c"
    teacher, student = f"convnext.py:teacher@{digest}", f"convnext.py:student@{digest}"
    protocol = replace(findings.data.protocol, teachers=(teacher,), students=(student, "resnet8"))
    data = with_teacher(replace(findings.data, protocol=protocol), model=teacher)
    page = render_page(find(data))
    first = page[page.index('<header id="result">') : page.index('<section id="ledger">')]
    assert "convnext.py:teacher" in first
    assert "convnext.py:student" in first
    assert digest not in first
    assert teacher in page[page.index('<section id="provenance">') :]


@pytest.mark.parametrize(
    ("dataset", "part"),
    [("folder:photos", "the centre square of each image"), ("digits", "images")],
)
def test_the_card_states_what_the_source_takes_of_an_image(
    findings: Findings, dataset: str, part: str
) -> None:
    protocol = replace(findings.data.protocol, dataset=dataset, image_size=8)
    of_data = replace(findings, data=replace(findings.data, protocol=protocol))
    assert f"It expects {part} resized to 8 pixels" in card_of(of_data, to_wire(square()))


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
    seal = read_json(study.study.seal)
    seal["openings"].append({"time": HOSTILE, "purpose": HOSTILE})
    write_json(study.study.seal, seal)
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
    assert "<" not in plots[1]
    labels = [
        note["text"]
        for plot in json.loads(plots[1])["plots"].values()
        for note in plot["layout"].get("annotations", ())
    ]
    assert any("&lt;script&gt;" in label for label in labels)
    assert not any("<" in label for label in labels)


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
    figures = drawn_figures(find(study.read())).values()
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
