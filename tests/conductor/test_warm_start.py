"""`--warm-start` takes another study's tuned recipes once, and lines say what the flags change."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from conductor.command_line import cli
from conductor.command_line.options import make_request
from conductor.request import Request
from conductor.stages.changing import changed_lines, read_warm_start
from conductor.study import Study
from kd.errors import RetortError
from search_spaces.changes import read_changes
from search_spaces.context import StudyContext
from search_spaces.space import load_space
from storage.files.layout import Layout
from storage.files.records import Finalists, StudySettings, WarmStart, WarmTrial
from storage.studies.databases import close_storage, open_storage
from tests.support import fakes
from tests.support.study_fixture import Fabricated, Plan, fabricate

SPACE = """
from kd.recipe import Recipe


def suggest(trial):
    return Recipe(lr=trial.suggest_float("rate", 0.01, 0.1))
"""
TAKEN = WarmStart(
    dataset="d" * 16,
    tested=False,
    fix=["lr=0.05"],
    trials={
        "mine": WarmTrial(
            number=3,
            space="5" * 64,
            parameters={"whole": 1, "number": 1.0, "small": 1e-7, "is": True, "kind": None},
        )
    },
)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Fabricated:
    plan = Plan(name="old", trials=12, epochs=2, seeds=1, images=40)
    return fabricate(tmp_path_factory.mktemp("warm"), plan)


@pytest.fixture
def root(old: Fabricated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a finished study `old`, which may be changed."""
    monkeypatch.setattr("search_spaces.space.DRAWS", 9)
    return Path(shutil.copytree(old.layout.root, tmp_path / "runs"))


def requested(root: Path, *words: str, name: str = "new") -> Request:
    return make_request(cli.read_options(["--root", str(root), "--name", name, *words]))


def test_the_parameters_of_the_tuned_trials_are_read(root: Path) -> None:
    layout = Layout(root)
    warm = read_warm_start(layout, "new", "old")
    kept = StudySettings.read(layout.study("old").settings)
    assert (warm.dataset, warm.tested, warm.fix) == (kept.dataset, True, [])
    tuned = [
        one
        for one in Finalists.read(layout.study("old").finalists).finalists
        if one.role == "tuned"
    ]
    assert {arm: trial.number for arm, trial in warm.trials.items()} == {
        one.arm: one.trial for one in tuned
    }
    for one in tuned:
        trial = warm.trials[one.arm]
        assert trial.space == kept.spaces[one.arm].digest
        assert (trial.parameters["lr"], trial.parameters["weight_decay"]) == (
            one.recipe.lr,
            one.recipe.weight_decay,
        )


def test_a_study_keeps_what_it_took_with_the_types_of_all_values(tmp_path: Path) -> None:
    settings = replace(fakes.settings(), warm_start="old", warm=TAKEN)
    settings.write(tmp_path / "study.json")
    found = StudySettings.read(tmp_path / "study.json")
    assert found == settings
    assert repr(found.warm) == repr(TAKEN)


def lose_trials(root: Path) -> None:
    for file in root.glob("studies.db*"):
        file.unlink()


def replace_trials(root: Path) -> None:
    lose_trials(root)
    storage = open_storage(Layout(root).studies_url)
    optuna.create_study(study_name="old.scheduled", storage=storage, direction="maximize")
    close_storage(storage)


def lose_finalists(root: Path) -> None:
    Layout(root).study("old").finalists.unlink()


def nothing(root: Path) -> None: ...


LOST = r"the trials of study old are not in its storage, sqlite:///\S+/studies.db; restore it, or"
REFUSED = [
    (nothing, "--name old", "--warm-start names another study, got old, the study itself"),
    (
        nothing,
        "--warm-start odl",
        "there is no study odl under .* to warm-start from; there are ol",
    ),
    (
        nothing,
        "--arms constant",
        "study old has tuned recipes of scheduled, plain, and this study ",
    ),
    (lose_finalists, "", "study old has no finalists to warm-start from; run: python study.py con"),
    (lose_trials, "", LOST),
    (replace_trials, "", LOST),
]


@pytest.mark.parametrize(("damage", "words", "message"), REFUSED)
def test_a_warm_start_that_cannot_be_is_refused_in_one_line(
    root: Path, damage: Callable[[Path], None], words: str, message: str
) -> None:
    damage(root)
    before = sorted(root.rglob("*"))
    flags = {"--name": "new", "--warm-start": "old"}
    given = words.split()
    flags |= dict(zip(given[::2], given[1::2], strict=True))
    line = ["--root", str(root), *(word for flag in flags.items() for word in flag)]
    with pytest.raises(RetortError, match=message) as refused:
        Study(make_request(cli.read_options(line)), fakes.quiet())
    assert "\n" not in str(refused.value)
    assert sorted(root.rglob("*")) == before


def test_a_study_continues_with_what_it_took_and_another_study_is_read(root: Path) -> None:
    """A study without a teacher may begin again with another warm start."""
    kept = replace(fakes.settings(), teachers=(), shards=(), warm_start="gone", warm=TAKEN)
    paths = Layout(root).study("new")
    paths.folder.mkdir()
    kept.write(paths.settings)
    assert requested(root).warm == TAKEN
    assert requested(root, "--warm-start", "gone").warm == TAKEN
    other = requested(root, "--warm-start", "old").warm
    assert other == read_warm_start(Layout(root), "new", "old")


def test_the_password_of_a_storage_opens_the_other_study_in_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records of studies have none."""
    path = Layout(root).study("old").settings
    replace(StudySettings.read(path), storage="postgresql://ann@host/db").write(path)
    opened: list[str] = []

    def take(url: str) -> None:
        opened.append(url)
        raise KeyError

    monkeypatch.setattr("conductor.stages.changing.open_storage", take)
    for url in ("postgresql://ann:secret@host/db", "sqlite:///other.db"):
        with pytest.raises(KeyError):
            read_warm_start(Layout(root), "new", "old", url)
    assert opened == ["postgresql://ann:secret@host/db", "postgresql://ann@host/db"]


def test_lines_name_the_arms_that_a_flag_changes_and_those_that_it_does_not(
    root: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(SPACE)
    arms = ["--space", str(tmp_path / "mine.py"), "--arms", "scheduled,plain"]
    flags = ["--fix", "lr=0.05", "--range", "temperature=2:6", "--warm-start", "old"]
    lines = changed_lines(Study(requested(root, *arms, *flags), fakes.quiet())._spaces)
    assert lines[:3] == [
        "--fix lr=0.05: scheduled (lr), plain (lr); mine has none",
        "--range temperature=2:6: scheduled (temperature_initial, temperature_final); mine, plain "
        "have none",
        "--warm-start: scheduled, plain; mine has none",
    ]
    assert "scheduled: “classic” is tried with temperature_final 2, not 1" in lines
    assert changed_lines(Study(requested(root, *arms), fakes.quiet())._spaces) == []


def test_a_line_says_that_no_arm_is_changed() -> None:
    """Models without taps in common have no feature losses, which is found after the flags."""
    spaces = [
        load_space("scheduled", StudyContext(taps=()), read_changes(["feature_kind=none"], []))
    ]
    assert changed_lines(spaces) == ["--fix feature_kind=none: no arm; scheduled has none"]
