"""One contract over every storage: SQLite, Optuna's journal, PostgreSQL, MariaDB or MySQL."""

import json
import math
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import TrialState, create_trial
from optuna_dashboard import get_note, save_note

from conductor.search.arm import Arm
from kd.errors import StudyError
from storage.studies import journal
from storage.studies.databases import close_storage, open_storage
from storage.studies.studies import open_study
from tests.support.fakes import FakePool, Killed, make_arm, rows, search, undisturbed
from tests.support.postgres import mariadb, postgresql

SERVERS: dict[str, Any] = {"postgresql": postgresql, "mysql": mariadb}
BACKENDS = ("sqlite", "journal", *SERVERS)
CHOSEN: dict[str, Any] = {"sampler": "tpe", "pruner": "hyperband", "lag": 4, "space": "scheduled"}
TRIALS = 13  # more than are random


@dataclass(frozen=True, slots=True)
class Backend:
    """A storage, and a study's name that no other test has."""

    kind: str
    url: str
    name: str

    def open(self) -> BaseStorage:
        storage = open_storage(self.url)
        OPENED.append(storage)
        return storage

    def arm(self, **chosen: Any) -> Arm:
        """Open storage and arm anew, as a session does."""
        return make_arm(self.open(), name=self.name, **{**CHOSEN, **chosen})

    def execute(self, statement: str, **values: Any) -> None:
        """Change a database behind our back."""
        engine = sqlalchemy.create_engine(self.url)
        with engine.begin() as connection:
            assert connection.execute(sqlalchemy.text(statement), values).rowcount == 1
        engine.dispose()


OPENED: list[BaseStorage] = []


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[str], str]]:
    """Give the URL of a server, which is started when it is first asked for."""
    urls: dict[str, str] = {}
    with ExitStack() as running:

        def url_of(kind: str) -> str:
            if kind not in urls:
                server = running.enter_context(SERVERS[kind]())
                urls[kind] = server if isinstance(server, str) else server.url
            return urls[kind]

        yield url_of


@pytest.fixture(params=BACKENDS)
def backend(request, tmp_path, servers) -> Iterator[Backend]:
    kind, name = request.param, request.node.name.replace("[", "-").rstrip("]")
    files = {
        "sqlite": f"sqlite:///{tmp_path / 'studies.db'}",
        "journal": f"journal:{tmp_path / 'folder' / 'studies.journal'}",
    }
    yield Backend(kind, files[kind] if kind in files else servers(kind), name)
    while OPENED:
        close_storage(OPENED.pop())


def test_a_study_opens_resumes_and_is_refused_under_other_attributes(backend: Backend) -> None:
    attributes = {"protocol": "abc", "lag": 4, "space": {"source": "plain"}}
    study = open_study(backend.open(), backend.name, attributes)
    study.tell(study.ask(), 0.5)
    for changes, named in (
        ({"protocol": "def"}, "protocol 'abc', not 'def'"),
        ({"lag": 8}, "lag 4, not 8"),
        ({"space": {"source": "mine.py"}}, "space {'source': 'plain'}, not {'source': 'mine.py'}"),
    ):
        named = f"{backend.name} was begun with {named}; use that, or another --name"
        with pytest.raises(StudyError, match=f"^{re.escape(named)}$"):
            open_study(backend.open(), backend.name, {**attributes, **changes})
    again = open_study(backend.open(), backend.name, attributes)
    assert [trial.value for trial in again.trials] == [0.5]
    assert again.metric_names == ["validation accuracy"]
    assert again.user_attrs == attributes


def test_a_study_that_minimises_is_refused(backend: Backend) -> None:
    optuna.create_study(storage=backend.open(), study_name=backend.name, direction="minimize")
    with pytest.raises(StudyError, match=f"{re.escape(backend.name)} does not maximise one value"):
        open_study(backend.open(), backend.name, {})


def test_the_same_study_has_the_same_rows_everywhere(tmp_path, backend: Backend) -> None:
    arm = backend.arm()
    search(tmp_path, [arm], FakePool(4, 1), TRIALS)
    written = undisturbed(tmp_path, TRIALS, name=backend.name, **CHOSEN)
    assert rows(arm.study) == written
    assert rows(backend.arm().study) == written


def test_a_study_dropped_and_opened_at_many_points_ends_the_same(
    tmp_path, backend: Backend
) -> None:
    for fuse in (0, 2, 7, 15, None):
        arm, pool = backend.arm(), FakePool(4, 2)
        pool.fuse = fuse
        try:
            search(tmp_path, [arm], pool, TRIALS)
        except Killed:
            continue
    assert rows(arm.study) == undisturbed(tmp_path, TRIALS, name=backend.name, **CHOSEN)
    assert all(trial.state.is_finished() for trial in arm.study.get_trials())


def test_long_notes_and_unicode_survive(backend: Backend) -> None:
    line = "Größe ≥ 3 · 蒸馏 · \N{ALEMBIC} '\"\\%:{}\n"
    note = line * 800  # MySQL holds 64 KB, escaped; the dashboard cuts what is longer
    study = open_study(backend.open(), backend.name, {"note": note})
    save_note(study, 3 * note)
    trial = study.ask()
    trial.set_user_attr("note", note)
    study.tell(trial, 0.5)
    again = open_study(backend.open(), backend.name, {"note": note})
    assert get_note(again) == 3 * note
    assert again.trials[0].user_attrs == {"note": note}


def test_a_template_survives_to_the_bit(backend: Backend) -> None:
    """Floats too, which a database could round."""
    floats = [1 / 3, math.nextafter(0.3, 1), 2.0**-1022, 1.7976931348623157e308, 1e-9, 0.0]
    names = [f"float {index}" for index in range(len(floats))]
    template = create_trial(
        state=TrialState.RUNNING,
        params={**dict(zip(names, floats, strict=True)), "int": 7, "kind": "ünï", "none": None},
        distributions={
            **dict.fromkeys(names, FloatDistribution(0, 1.7976931348623157e308)),
            "int": IntDistribution(1, 9),
            "kind": CategoricalDistribution(("none", "ünï")),
            "none": CategoricalDistribution((None, True)),
        },
        user_attrs={"owner": "me", "nested": {"list": [1, 1 / 3, None, True, "\N{ALEMBIC}"]}},
        system_attrs={"fixed_params": {"int": 7}},
        intermediate_values=dict(enumerate(floats, 1)),
    )
    template.number = 0
    storage = backend.open()
    study = open_study(storage, backend.name, {})
    trial_id = storage.create_new_trial(study._study_id, template)
    storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1 / 3])
    read = open_study(backend.open(), backend.name, {}).get_trials()[0]
    for name in ("params", "distributions", "user_attrs", "system_attrs", "intermediate_values"):
        assert getattr(read, name) == getattr(template, name)
    assert read.values == [1 / 3]
    assert read.number == 0


def test_a_trial_ends_once(backend: Backend) -> None:
    """What is told of a trial that has ended is an error, and changes nothing."""
    arm = backend.arm(space="plain")
    arm.tell(arm.ask(9), TrialState.COMPLETE, 0.5, {})
    before = rows(arm.study)
    trial_id = arm.ledger.stored_trial(0)._trial_id
    for change in (
        lambda storage: storage.set_trial_state_values(trial_id, TrialState.FAIL, None),
        lambda storage: storage.set_trial_intermediate_value(trial_id, 1, 0.25),
        lambda storage: storage.set_trial_user_attr(trial_id, "note", "late"),
    ):
        with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
            change(backend.open())
    assert rows(backend.arm(space="plain").study) == before


# What is changed behind our back.


def begun(backend: Backend) -> Arm:
    """Return an arm with one trial that has ended and one that runs."""
    arm = backend.arm(space="plain")
    arm.report(arm.ask(9), 1, 0.5)
    arm.tell(0, TrialState.COMPLETE, 0.75, {"epochs": 8, "nll": 1.5})
    arm.ask(9)
    return arm


CHANGES = {
    "value": "UPDATE trial_values SET value = 0.76 WHERE trial_id = :ended",
    "report": "UPDATE trial_intermediate_values SET intermediate_value = 0.51"
    " WHERE trial_id = :ended",
    "parameter": "UPDATE trial_params SET param_value = 0.11"
    " WHERE trial_id = :ended AND param_name = 'lr'",
    "range": "UPDATE trial_params SET distribution_json = REPLACE(distribution_json, '0.5', '0.4')"
    " WHERE trial_id = :ended AND param_name = 'lr'",
    "state": "UPDATE trials SET state = 'PRUNED' WHERE trial_id = :ended",
    "attribute": "UPDATE trial_user_attributes SET value_json = '9'"
    " WHERE trial_id = :ended AND trial_user_attributes.key = 'epochs'",
    "lost": "DELETE FROM trial_values WHERE trial_id = :ended",
    "running": "UPDATE trial_params SET param_value = 0.11"
    " WHERE trial_id = :running AND param_name = 'lr'",
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("backend", ["sqlite", *SERVERS], indirect=True)
def test_what_is_changed_in_a_database_is_found_on_open(backend: Backend, change: str) -> None:
    arm = begun(backend)
    backend.arm(space="plain")
    ids = {
        "ended": arm.ledger.stored_trial(0)._trial_id,
        "running": arm.ledger.stored_trial(1)._trial_id,
    }
    statement = CHANGES[change]
    backend.execute(statement, **{key: ids[key] for key in ids if f":{key}" in statement})
    number = 1 if change == "running" else 0
    with pytest.raises(StudyError, match=rf"trial {number} of .*\.plain differs from its digest"):
        backend.arm(space="plain")


LINES: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "value": ("values", lambda line: line.update(values=[0.76])),
    "state": ("values", lambda line: line.update(state=TrialState.PRUNED.value)),
    "report": ("intermediate_value", lambda line: line.update(intermediate_value=0.51)),
    "epoch": ("intermediate_value", lambda line: line.update(step=2)),
    "parameter": ("params", lambda line: line["params"].update(lr=0.11)),
    "attribute": ("user_attr", lambda line: line.update(user_attr={"more": 1})),
}


@pytest.mark.parametrize("change", LINES)
def test_a_changed_line_of_a_journal_is_found_on_open(tmp_path, change: str) -> None:
    backend = Backend("journal", f"journal:{tmp_path / 'studies.journal'}", "study")
    begun(backend)
    key, edit = LINES[change]
    path = tmp_path / "studies.journal"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    edit(next(line for line in lines if key in line and ("trial_id" in line or key == "params")))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(StudyError, match=r"trial 0 of study\.plain differs from its digest"):
        backend.arm(space="plain")


# A journal that was cut off amid a line, and an SQLite file that is damaged.


def journal_at(path: Path) -> Backend:
    return Backend("journal", f"journal:{path}", "study")


def test_a_journal_cut_off_at_any_byte_continues(tmp_path) -> None:
    """As a kill amid a write leaves it. Optuna itself writes on after half a line."""
    whole = tmp_path / "whole"
    begun(journal_at(whole))
    content = whole.read_bytes()
    line = content[:-1].rfind(b"\n") + 1  # where the last line begins
    every_few = range(len(content) - 400, len(content), 29)
    for cut in {*every_few, line - 1, line, line + 1, len(content) - 1}:
        path = tmp_path / "cut"
        path.write_bytes(content[:cut])
        arm = journal_at(path).arm(space="plain")
        arm.study.set_user_attr("note", "after the cut")
        assert journal_at(path).arm(space="plain").study.user_attrs["note"] == "after the cut"
        assert path.read_bytes().startswith(content[: content[:cut].rfind(b"\n") + 1])


def test_half_a_line_that_a_full_disk_took_is_cut_off_again(tmp_path, monkeypatch) -> None:
    arm = begun(journal_at(tmp_path / "journal"))
    before = (tmp_path / "journal").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "fsync", full)
        with pytest.raises(
            StudyError, match="cannot be written: No space left on device; run the same"
        ):
            arm.report(1, 1, 0.5)
    assert (tmp_path / "journal").read_bytes() == before
    journal_at(tmp_path / "journal").arm(space="plain")


@pytest.mark.parametrize("damage", [b"{", b"[]", b'{"op_code":99}', b'{"op_code":4}', b"\xff"])
def test_a_damaged_journal_is_refused_in_one_line(tmp_path, damage: bytes) -> None:
    begun(journal_at(tmp_path / "journal"))
    lines = (tmp_path / "journal").read_bytes().split(b"\n")
    lines[3] = damage
    (tmp_path / "journal").write_bytes(b"\n".join(lines))
    with pytest.raises(StudyError, match=r"the journal .* cannot be (read|opened)") as raised:
        journal_at(tmp_path / "journal").open()
    assert "\n" not in str(raised.value)


def test_a_lock_that_a_killed_writer_left_does_not_hold_up_a_journal(tmp_path) -> None:
    """Optuna's own lock is a link, which it takes for held for half a minute."""
    arm = begun(journal_at(tmp_path / "journal"))
    (tmp_path / "journal.lock").unlink(missing_ok=True)
    (tmp_path / "journal.lock").touch()
    arm.report(1, 1, 0.5)


def test_an_sqlite_file_with_a_damaged_index_is_refused(tmp_path) -> None:
    """Optuna looks rows up in indexes: one that lacks a row hides it."""
    backend = Backend("sqlite", f"sqlite:///{tmp_path / 'studies.db'}", "study")
    begun(backend)
    close_storage(OPENED.pop())
    with closing(sqlite3.connect(tmp_path / "studies.db")) as connection, connection:
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute(
            "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master"
            " WHERE name = 'ix_trials_study_id') WHERE name = 'ix_studies_study_name'"
        )
    with pytest.raises(StudyError, match=r"the storage .* is damaged .*restore it"):
        backend.open()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE trials SET state = 'COMQLETE'",
        "UPDATE trials SET datetime_start = '2026-13-01 00:00:00'",
        "UPDATE trial_params SET distribution_json = '{'",
        "UPDATE trial_user_attributes SET value_json = '{'",
        "UPDATE study_directions SET direction = 'MAXIMISE'",
    ],
)
def test_what_optuna_cannot_read_is_refused_in_one_line(tmp_path, change: str) -> None:
    backend = Backend("sqlite", f"sqlite:///{tmp_path / 'studies.db'}", "study")
    begun(backend)
    with closing(sqlite3.connect(tmp_path / "studies.db")) as connection, connection:
        connection.execute(change)
    with pytest.raises(StudyError, match="part of it cannot be read") as raised:
        backend.arm(space="plain")
    assert "\n" not in str(raised.value)
