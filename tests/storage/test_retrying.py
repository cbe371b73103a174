"""A server that goes away is waited for, nothing is done twice, and a file fails at once."""

import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import TrialState
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from conductor.search.arm import Arm
from kd.errors import StudyError
from storage.studies import retrying
from storage.studies.databases import close_storage, open_storage
from storage.studies.optuna_internals import trial_id_of
from storage.studies.supervision import supervisor_session
from tests.support.fakes import FakePool, make_arm, rows, search, undisturbed

CHOSEN: dict[str, Any] = {"sampler": "random", "pruner": "median", "space": "plain", "lag": 4}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr("optuna.storages._rdb.storage.random.random", lambda: 0.02)


@pytest.fixture
def sqlite(tmp_path, open_url) -> BaseStorage:
    return open_url(f"sqlite:///{tmp_path / 'studies.db'}")


def before(arm: Arm, method: str, call: int, act: Callable[[], None]) -> None:
    """Do something before call number `call` of one of the arm's methods."""
    real, calls = getattr(arm, method), iter(range(1000))

    def spy(*arguments: Any) -> Any:
        if next(calls) == call:
            act()
        return real(*arguments)

    setattr(arm, method, spy)


def test_a_server_that_goes_away_amid_a_study_is_waited_for(
    tmp_path, server, open_url, said
) -> None:
    storage = open_url(server.url)
    arm = make_arm(storage, name="away", **CHOSEN)

    starts: list[threading.Timer] = []

    def go_away() -> None:
        for start in starts:
            start.join()  # the server may answer before its start has ended
        server.stop()
        starts.append(threading.Timer(0.3, server.start))
        starts[-1].start()

    for method, call in (("ask", 1), ("report", 20), ("tell", 4)):
        before(arm, method, call, go_away)
    with supervisor_session(storage, "away") as check:
        search(tmp_path, [arm], FakePool(4, 1), 6)
        check()  # it takes its lock again
    assert rows(arm.study) == undisturbed(tmp_path, 6, name="away", **CHOSEN)
    assert [line.partition(",")[0] for line in said] == [
        "the storage does not answer",
        "the storage answers again",
    ] * 3


def test_a_server_that_stays_away_ends_the_study_in_one_line(
    server, open_url, said, monkeypatch
) -> None:
    monkeypatch.setattr(retrying, "MAX_WAIT", 0.2)
    arm = make_arm(open_url(server.url.replace("postgres:@", "postgres:secret@")), name="stays")
    arm.ask(9)
    server.stop()
    try:
        with pytest.raises(
            StudyError, match=r"the storage fails: .*; run the same command"
        ) as raised:
            arm.report(0, 1, 0.5)
    finally:
        server.start()
    for line in (*said, str(raised.value)):
        assert "secret" not in line
        assert "\n" not in line


def test_a_server_that_refuses_is_not_waited_for(server, open_url, said) -> None:
    storage = open_url(server.url)
    arm = make_arm(storage, name="refuses")
    arm.ask(9)
    with storage.engine.begin() as connection:
        connection.execute(text("ALTER TABLE trial_user_attributes RENAME TO gone"))
    try:
        with pytest.raises(StudyError, match=r"the storage fails: .*does not exist"):
            arm.tell(0, TrialState.COMPLETE, 0.5, {"epochs": 1})
    finally:
        with storage.engine.begin() as connection:
            connection.execute(text("ALTER TABLE gone RENAME TO trial_user_attributes"))
    assert said == []


def test_once_a_wait_is_interrupted_nothing_waits_any_more(server, open_url, monkeypatch) -> None:
    """The process is to end."""
    arm = make_arm(open_url(server.url), name="interrupted")
    arm.ask(9)

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    server.stop()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(retrying.time, "sleep", interrupt)
            with pytest.raises(KeyboardInterrupt):
                arm.report(0, 1, 0.5)
        monkeypatch.setattr(retrying, "PAUSE", 1000)
        with pytest.raises(StudyError, match="the storage fails"):
            arm.report(0, 2, 0.5)
    finally:
        server.start()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_supervisors_open_a_new_database_at_once(tmp_path, server, open_url, kind) -> None:
    """Each finds that tables are missing, and one of them makes them first."""
    with open_url(server.url).engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(text("DROP DATABASE IF EXISTS fresh"))
        connection.execute(text("CREATE DATABASE fresh"))
    url = {
        "sqlite": f"sqlite:///{tmp_path / 'studies.db'}",
        "postgresql": server.url.replace("/postgres?", "/fresh?"),
    }[kind]
    with ThreadPoolExecutor(5) as threads:
        opened = list(threads.map(lambda index: open_storage(url), range(5)))
    for storage in opened:
        assert storage.get_all_studies() == []
        close_storage(storage)


def test_a_new_sqlite_that_another_one_writes_is_opened_once_it_is_free(tmp_path) -> None:
    """SQLite itself does not wait for a writer in order to change its journal."""
    path = tmp_path / "studies.db"
    RDBStorage(f"sqlite:///{path}").engine.dispose()
    writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN IMMEDIATE")
    ends = threading.Timer(0.2, writer.close)
    ends.start()
    storage = open_storage(f"sqlite:///{path}")
    assert not ends.is_alive()
    assert storage.get_all_studies() == []
    close_storage(storage)


# Answers that get lost.


@pytest.fixture
def lose_answers(monkeypatch) -> Callable[[int], list[int]]:
    """Let the next commits succeed, and then seem to have failed."""
    commit = Session.commit

    def lose_answers(count: int) -> list[int]:
        lost: list[int] = []

        def lose(session: Session) -> None:
            commit(session)
            if len(lost) < count:
                lost.append(len(lost))
                raise OperationalError("COMMIT", {}, Exception("the answer got lost"))

        monkeypatch.setattr(Session, "commit", lose)
        return lost

    return lose_answers


@pytest.mark.parametrize("count", [1, 7])  # Optuna itself tries five times
def test_a_trial_whose_answer_gets_lost_is_created_once(
    tmp_path, server, open_url, lose_answers, count
) -> None:
    name = f"lost{count}"
    arm = make_arm(open_url(server.url), name=name, **CHOSEN)
    lost = lose_answers(count)
    assert [arm.ask(9), arm.ask(9)] == [0, 1]
    assert len(lost) == count
    assert [trial.number for trial in arm.study.get_trials()] == [0, 1]
    search(tmp_path, [make_arm(open_url(server.url), name=name, **CHOSEN)], FakePool(), 3)
    assert rows(arm.study) == undisturbed(tmp_path, 3, name=name, **CHOSEN)


def test_a_trial_whose_end_gets_no_answer_has_ended(
    tmp_path, server, open_url, lose_answers
) -> None:
    arm = make_arm(open_url(server.url), name="ended", **CHOSEN)
    search(tmp_path, [arm], FakePool(), 2)
    lost = lose_answers(40)
    search(tmp_path, [arm], FakePool(), 3)
    assert len(lost) == 40
    assert rows(arm.study) == undisturbed(tmp_path, 3, name="ended", **CHOSEN)


def test_a_number_that_has_a_trial_is_not_taken_twice(server, open_url) -> None:
    first, second = (make_arm(open_url(server.url), name="taken", **CHOSEN) for _ in range(2))
    assert first.ask(9) == 0
    stored = first.ledger.stored_trial(0)
    stored.storage.set_trial_user_attr(trial_id_of(stored), "differs", 1)
    with pytest.raises(StudyError, match=r"^trial 0 of the study was not written by"):
        second.ask(9)
    assert [trial.number for trial in first.study.get_trials()] == [0]


# A file.


@pytest.mark.parametrize(
    ("pragma", "reason"),
    [
        ("max_page_count=1", "database or disk is full"),
        ("query_only=1", "attempt to write a readonly database"),
    ],
)
@pytest.mark.parametrize("call", ["ask", "report", "tell"])
def test_sqlite_without_disk_or_rights_fails_at_once(
    sqlite, said, monkeypatch, pragma, reason, call
) -> None:
    arm = make_arm(sqlite, lag=9)
    arm.ask(9)
    sqlite.engine.dispose()

    def spend(raw: Any, record: object) -> None:
        raw.execute(f"PRAGMA {pragma}")

    def waits(seconds: float) -> None:
        raise AssertionError("it waits")

    event.listen(sqlite.engine, "connect", spend)
    monkeypatch.setattr("optuna.storages._rdb.storage.time.sleep", waits)
    calls: dict[str, Callable[[], object]] = {
        "ask": lambda: [arm.ask(99) for _ in range(50)],
        "report": lambda: [arm.report(0, epoch, 0.5) for epoch in range(5000)],
        "tell": lambda: arm.tell(0, TrialState.COMPLETE, 0.5, {"note": "x" * 10**6}),
    }
    with pytest.raises(StudyError, match=f"studies.db fails: {reason}; run the same command"):
        calls[call]()
    assert said == []
    with suppress(StudyError):
        close_storage(sqlite)
