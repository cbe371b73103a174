"""One supervisor owns a study: in a file by a lock, on a server by a session and a number."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from sqlalchemy import text

from kd.errors import StudyError
from storage.files.ownership import study_lock
from storage.studies.databases import close_storage, open_storage
from storage.studies.supervision import supervisor_session
from tests.support.fakes import make_arm
from tests.support.postgres import mariadb
from tests.support.processes import ROOT

US = f"process {os.getpid()} on {socket.gethostname()} since 2"
HELD = (
    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND database = "
    "(SELECT oid FROM pg_database WHERE datname = current_database())"
)


@pytest.fixture
def open_one(server, open_url) -> Callable[[], BaseStorage]:
    """Open the server's storage, as one more supervisor does."""
    return lambda: open_url(server.url)


def end_sessions(storage: Any, which: str = HELD) -> None:
    """End database sessions, by default those that hold a study, as an administrator would."""
    with storage.engine.begin() as connection:
        ended = connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM ({which}) AS one"))
        assert ended.all() != []
    deadline = time.monotonic() + 10
    while which == HELD and holders(storage):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def holders(storage: Any) -> int:
    with storage.engine.begin() as connection:
        return len(connection.execute(text(HELD)).all())


# A file.


def test_a_file_has_one_supervisor_and_the_error_of_a_second_names_it(tmp_path) -> None:
    file = tmp_path / "studies.db"
    with (
        study_lock(file, "digits"),
        study_lock(file, "other"),
        pytest.raises(StudyError, match=f"^study digits is being run by {US}.*; stop it, or wait"),
        study_lock(file, "digits"),
    ):
        pass
    with study_lock(file, "digits"):
        pass


def test_a_supervisor_that_ends_while_a_second_looks_it_up_is_unknown(
    tmp_path, monkeypatch
) -> None:
    """Its file is found, and gone when it is read."""

    def gone(path: Path) -> str:
        raise FileNotFoundError(path)

    with study_lock(tmp_path / "studies.db", "digits"):
        monkeypatch.setattr(Path, "read_text", gone)
        with (
            pytest.raises(StudyError, match="is being run by a process that has just started; "),
            study_lock(tmp_path / "studies.db", "digits"),
        ):
            pass


# A server.


def test_a_server_has_one_supervisor_per_study_and_the_error_of_a_second_names_it(open_one) -> None:
    first, second = open_one(), open_one()
    with supervisor_session(first, "named"):
        with supervisor_session(second, "another"):
            pass
        with (
            pytest.raises(StudyError, match=f"^study named is being run by {US}.*; stop it, or"),
            supervisor_session(second, "named"),
        ):
            pass
    with supervisor_session(second, "named"):
        pass


def test_a_supervisor_whose_session_was_ended_raises_an_error(open_one) -> None:
    storage, administrator = open_one(), open_one()
    with supervisor_session(storage, "ended") as check:
        check()
        end_sessions(administrator)
        with pytest.raises(StudyError, match="database session that held study ended was ended"):
            check()


@pytest.mark.parametrize("write", ["ask", "report", "tell", "attribute"])
def test_one_that_was_overtaken_writes_nothing_more(open_one, write) -> None:
    """It has not noticed yet that its session was ended."""
    slow, successor, administrator = open_one(), open_one(), open_one()
    arm = make_arm(slow, "plain", name=write, lag=9)
    with supervisor_session(slow, write) as check:
        arm.ask(9)
        arm.report(0, 1, 0.5)
        end_sessions(administrator)
        with supervisor_session(successor, write):
            before = make_arm(successor, "plain", name=write, lag=9).study.get_trials()
            writes: dict[str, Callable[[], object]] = {
                "ask": lambda: arm.ask(9),
                "report": lambda: arm.report(0, 2, 0.5),
                "tell": lambda: arm.tell(0, TrialState.COMPLETE, 0.5, {"epochs": 2}),
                "attribute": lambda: arm.study.set_user_attr("key", 1),
            }
            with pytest.raises(StudyError, match=f"^study {write} was taken over by {US}"):
                writes[write]()
            with pytest.raises(StudyError, match=f"^study {write} was taken over by {US}"):
                check()
            again = make_arm(successor, "plain", name=write, lag=9).study
            assert again.get_trials() == before
            assert "key" not in again.user_attrs
            make_arm(successor, "plain", name=write, lag=9).ask(9)  # the successor writes


def test_a_transaction_that_has_passed_is_committed_before_a_successor_reads(open_one) -> None:
    slow, successor, administrator = open_one(), open_one(), open_one()
    order: list[str] = []

    def take_over() -> None:
        with supervisor_session(successor, "passed"):
            order.append("taken over")

    with supervisor_session(slow, "passed"):
        study = make_arm(slow, "plain", name="passed").study
        end_sessions(administrator)
        with slow.engine.begin() as connection:  # type: ignore[attr-defined]
            connection.execute(text("UPDATE studies SET study_name = study_name"))
            heir = threading.Thread(target=take_over)
            heir.start()
            heir.join(0.3)
            order.append("committed")
        heir.join(10)
        assert order == ["committed", "taken over"]
        with pytest.raises(StudyError, match="was taken over"):
            study.set_user_attr("key", 1)


def test_a_server_that_is_started_again_is_waited_for_and_the_study_continues(
    server, open_one, said
) -> None:
    storage = open_one()
    arm = make_arm(storage, "plain", name="restarted")
    with supervisor_session(storage, "restarted") as check:
        arm.ask(9)
        for _ in range(2):  # the second time soon after the first
            server.stop()
            start = threading.Timer(0.1, server.start)
            start.start()
            check()
            start.join()
        assert said[-1] == "the storage answers again"
        arm.report(0, 1, 0.5)
        with (
            pytest.raises(StudyError, match="is being run by"),
            supervisor_session(open_one(), "restarted"),
        ):
            pass


def test_one_that_comes_back_after_its_successor_ends(server, open_one) -> None:
    storage, successor = open_one(), open_one()
    with supervisor_session(storage, "late") as check:
        server.stop()
        server.start()
        with (
            supervisor_session(successor, "late"),
            pytest.raises(StudyError, match="was taken over by"),
        ):
            check()


def test_a_killed_supervisor_owns_nothing(server, open_one) -> None:
    """Its sessions end with it."""
    script = (
        "import os; from storage.studies.databases import open_storage\n"
        "from storage.studies.supervision import supervisor_session\n"
        f"with supervisor_session(open_storage({server.url!r}), 'killed'):\n"
        "    os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    administrator = open_one()
    deadline = time.monotonic() + 10
    while holders(administrator):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with supervisor_session(administrator, "killed"):
        pass


def test_mysql_has_one_supervisor_a_study_too() -> None:
    holds = "SELECT IS_USED_LOCK(SHA2(CONCAT(DATABASE(), '/', 'retort.held'), 224))"
    with mariadb() as url:
        slow: Any = open_storage(url)
        successor: Any = open_storage(url)
        arm = make_arm(slow, "plain", name="held", lag=9)
        with supervisor_session(slow, "held") as check:
            arm.ask(9)
            with (
                pytest.raises(StudyError, match=f"^study held is being run by {US}"),
                supervisor_session(successor, "held"),
            ):
                pass
            check()
            with successor.engine.begin() as connection:
                connection.execute(text(f"KILL {connection.execute(text(holds)).scalar()}"))
            with supervisor_session(successor, "held"):
                for late in (lambda: arm.report(0, 1, 0.5), check):
                    with pytest.raises(StudyError, match=f"^study held was taken over by {US}"):
                        late()
                make_arm(successor, "plain", name="held", lag=9).ask(9)
        for storage in (slow, successor):
            close_storage(storage)
