"""Studies open where they should, or say in one line why not; see also `test_databases`."""

import re
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing

import optuna
import pytest
from optuna.storages import BaseStorage

from kd.errors import StudyError
from storage.files.layout import Layout
from storage.studies.databases import close_storage, open_storage
from storage.studies.studies import open_study, study_name
from storage.studies.urls import shown, storage_file, without_password

ATTRIBUTES = {"protocol": "abc", "lag": 4, "space": {"source": "plain"}}


@pytest.fixture
def url(tmp_path) -> str:
    return Layout(tmp_path).studies_url


@pytest.fixture
def storage(url: str, open_url: Callable[[str], BaseStorage]) -> BaseStorage:
    return open_url(url)


@pytest.fixture
def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def refusal(url: str) -> str:
    with pytest.raises(StudyError) as raised:
        close_storage(open_storage(url))
    message = str(raised.value)
    assert "\n" not in message
    assert "secret" not in message
    return message


# Opening.


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "studies.db",
        "://",
        "postgresql//user:secret@host",
        "user:secret@host/db",
        "foo://user:secret@host/db",
        "redis://:secret@host/0",
        "postgresql+nodriver://user:secret@host/db",
        "postgresql://user:secret@host:port/db",
        "postgresql://user:more@secret@host/db",
        "sqlite://",
        "sqlite://:secret@",
        "sqlite:///:memory:",
    ],
)
def test_what_is_no_storage_url_is_refused_in_one_line(url: str) -> None:
    assert refusal(url).startswith("--storage takes an SQLAlchemy URL")


def test_a_server_that_does_not_answer_is_named_without_its_password(closed_port: int) -> None:
    """Or its driver, where that is not installed."""
    message = refusal(f"postgresql+psycopg://user:secret@127.0.0.1:{closed_port}/db")
    assert re.search(r"does not answer: |is not installed: .*pip install", message)
    assert f"postgresql+psycopg://user:***@127.0.0.1:{closed_port}/db" in message


def test_a_driver_that_is_not_installed_is_named() -> None:
    message = refusal("mssql+pymssql://user:secret@127.0.0.1/db?password=secret")
    assert message.startswith("the driver of mssql+pymssql://user:***@127.0.0.1/db?password=***")


@pytest.mark.parametrize("place", ["none/studies.db", "a file/studies.db", "a file"])
def test_a_file_that_cannot_be_a_database_is_refused(tmp_path, place: str) -> None:
    (tmp_path / "a file").write_text("no database" * 100)
    message = refusal(f"sqlite:///{tmp_path / place}")
    opened = r"unable to open database file; run the same command again to continue"
    damaged = r"file is not a database; restore it, or delete it and run the study again"
    assert re.search(rf"does not answer: ({opened}|{damaged})", message)


def test_a_database_that_cannot_be_written_is_refused(tmp_path) -> None:
    """Read-only by its URL, as a read-only folder makes it for all but root."""
    path = tmp_path / "studies.db"
    close_storage(open_storage(f"sqlite:///{path}"))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    message = refusal(f"sqlite:///file:{path}?mode=ro&uri=true")
    assert message.endswith("readonly database; run the same command again to continue")


def test_tables_of_another_optuna_are_refused(tmp_path, url: str) -> None:
    close_storage(open_storage(url))
    with closing(sqlite3.connect(tmp_path / "studies.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v0.9.0.a'")
    assert "cannot be used: The runtime optuna version" in refusal(url)


def test_sqlite_is_in_write_ahead_mode_and_syncs_less(storage: BaseStorage) -> None:
    """Twice, since each connection sets its own."""
    for _ in range(2):
        with storage.engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1  # NORMAL
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 60_000
        storage.engine.dispose()


def test_what_one_connection_writes_another_reads_at_once(url, storage, open_url) -> None:
    study = open_study(storage, "s.plain", ATTRIBUTES)
    other = open_url(url)
    study.tell(study.ask(), 0.5)
    read = optuna.load_study(study_name="s.plain", storage=other)
    assert [trial.value for trial in read.trials] == [0.5]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://user:secret@host:5432/db", "postgresql://user:***@host:5432/db"),
        ("postgresql://user@host/db", "postgresql://user@host/db"),
        ("postgresql://host/db?password=secret&x=1", "postgresql://host/db?password=***"),
        ("postgresql://host/db?password=se&cret", "postgresql://***"),
        ("mysql://host/db?PASSWD=secret", "mysql://host/db?PASSWD=***"),
        ("postgresql://user:se/cr:et@host/db", "postgresql://user:***@host/db"),
        ("postgresql://user:se@cret@host/db", "postgresql://***"),
        ("postgresql://user:se@cr/et@host/db", "postgresql://***"),
        ("postgresql://user:se@cr?et@host/db", "postgresql://***"),
        ("postgresql://user:se@cr:et@host/db", "postgresql://***"),
        ("postgresql://us/er:secret@host/db", "postgresql://***"),
        ("postgresql://us@er:secret@host/db", "postgresql://us%40er:***@host/db"),
        ("postgresql:/user:secret@host/db", "postgresql:***"),
        ("user:secret@host", "user:***"),
        ("journal:/home/a@b/log", "journal:/home/a@b/log"),
        ("sqlite:////home/a@b/studies.db", "sqlite:////home/a@b/studies.db"),
        ("nonsense", "nonsense"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, expected: str) -> None:
    assert shown(url) == expected


def test_a_storage_in_a_file_is_known_by_it(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage_file("sqlite:///studies.db") == tmp_path / "studies.db"
    assert storage_file("journal:log") == tmp_path / "log"
    assert storage_file("sqlite:///file:a%20b.db?uri=true") == tmp_path / "a b.db"
    for url in ("postgresql://host/db", "postgresql://host:port/db", "nonsense", "sqlite://"):
        assert storage_file(url) is None


@pytest.mark.parametrize("name", ["a b", "a?b=c", "x%41y", "a#b", "50%", "a@b:c", "ä&"])
def test_the_file_of_the_studies_lies_in_the_root_whatever_its_name(tmp_path, name: str) -> None:
    root = tmp_path / name
    root.mkdir()
    url = Layout(root).studies_url
    assert storage_file(url) == root / "studies.db"
    close_storage(open_storage(url))
    assert (root / "studies.db").is_file()
    assert list(tmp_path.iterdir()) == [root]
    assert without_password(url) == url


# Studies.


def test_a_study_is_maximised_and_its_metric_has_a_name(storage: BaseStorage) -> None:
    study = open_study(storage, study_name("digits", "plain"), ATTRIBUTES)
    assert study.study_name == "digits.plain"
    assert study.direction.name == "MAXIMIZE"
    assert study.metric_names == ["validation accuracy"]
    assert study.user_attrs == ATTRIBUTES


def test_another_arm_is_another_study(storage: BaseStorage) -> None:
    plain = open_study(storage, study_name("s", "plain"), ATTRIBUTES)
    other = open_study(storage, study_name("s", "scheduled"), {**ATTRIBUTES, "space": None})
    plain.tell(plain.ask(), 0.5)
    assert other.trials == []


def test_a_journal_that_cannot_be_opened_is_refused_in_one_line(tmp_path) -> None:
    (tmp_path / "a file").write_text("")
    assert "cannot be opened" in refusal(f"journal:{tmp_path / 'a file' / 'studies.journal'}")
