"""Fabricated studies that the tests of the report share, and what is read of them."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from reports.findings import Findings, find
from reports.read.data import StudyData
from reports.write.report import write_report
from tests.support.study_fixture import Fabricated, Plan, fabricate

PROMOTED = Plan(name="promoted", trials=20, images=80, promotion=True)
SMALL = Plan(name="small", trials=20, epochs=4, images=80, ablated=True)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Fabricated:
    """A study as a user would have it, with ablations, and with its report written."""
    study = fabricate(tmp_path_factory.mktemp("study"), Plan(ablated=True))
    write_report(study.layout, study.name, study.url)
    return study


@pytest.fixture(scope="session")
def findings(made: Fabricated) -> Findings:
    return find(made.read())


@pytest.fixture(scope="session")
def page(made: Fabricated) -> str:
    """The written page, without its unbreakable spaces."""
    return made.study.report_html.read_text(encoding="utf-8").replace("\u00a0", " ")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Fabricated:
    return fabricate(tmp_path_factory.mktemp("small"), SMALL)


@pytest.fixture(scope="session")
def data(small: Fabricated) -> StudyData:
    return small.read()


@pytest.fixture(scope="session")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Fabricated:
    """A study that was searched by promotion, with its report written."""
    study = fabricate(tmp_path_factory.mktemp("promoted"), PROMOTED)
    write_report(study.layout, study.name, study.url)
    return study


@pytest.fixture(scope="session")
def promotion(promoted: Fabricated) -> Findings:
    return find(promoted.read())


@pytest.fixture
def copied(small: Fabricated, tmp_path: Path) -> Fabricated:
    """A copy of the small study, to be damaged."""
    shutil.copytree(small.layout.root, tmp_path / "runs")
    return replace(small, layout=replace(small.layout, root=tmp_path / "runs"))
