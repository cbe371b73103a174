"""Where Optuna studies live: SQLite, PostgreSQL, MySQL, or Optuna's journal file.

sqlite:///runs/studies.db            one supervisor a study
journal:runs/studies.journal         one supervisor a study
postgresql+psycopg://user@host/db    several supervisors may share a study
mysql+pymysql://user@host/db         several supervisors may share a study
"""

import functools
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial
from sqlalchemy import Connection, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from kd.errors import StudyError

SQLITE_TIMEOUT = 60  # s to wait for another writer, such as the dashboard saving a note
CONNECT_TIMEOUT = 10  # s to wait for a server when a study is opened
PATIENCE = 600  # s to wait for a server that went away amid a study
PAUSE = 1.0  # s between two attempts
JOURNAL = "journal:"
SERVERS = ("postgresql", "mysql", "mariadb")

Notify = Callable[[str], None]


def open_storage(url: str, notify: Notify = lambda message: None) -> BaseStorage:
    """Connect to `url`. Raises StudyError, in one line, when that fails.

    A server that goes away later is waited for, and `notify` is told.
    """
    if url.startswith(JOURNAL):
        return _open_journal(Path(url.removeprefix(JOURNAL)))
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        storage = PatientStorage(url, notify)
        if storage.dialect == "sqlite":
            _relax_sqlite(storage)
    except (ArgumentError, NoSuchModuleError) as error:
        raise StudyError(
            f"--storage takes an SQLAlchemy URL or journal:FILE, got {shown(url)!r}: "
            f"{one_line(error)}"
        ) from None
    except ValueError:  # its message may hold a piece of the password
        raise StudyError(
            f"--storage takes an SQLAlchemy URL, got {shown(url)!r}, whose host or port is none; "
            "an @ in a password is written %40"
        ) from None
    except ImportError as error:
        raise StudyError(
            f"the driver of {shown(url)} is not installed: {one_line(error)}; "
            "pip install '.[postgresql]' or '.[mysql]'"
        ) from None
    except RuntimeError as error:  # tables of another version of Optuna
        raise StudyError(f"the storage {shown(url)} cannot be used: {one_line(error)}") from None
    except (SQLAlchemyError, StorageInternalError, OSError) as error:
        raise StudyError(f"the storage {shown(url)} does not answer: {one_line(error)}") from None
    return storage


def close_storage(storage: BaseStorage) -> None:
    """Close the connections that a storage holds open."""
    if isinstance(storage, PatientStorage):
        storage.remove_session()
        storage.engine.dispose()


def storage_file(url: str) -> Path | None:
    """Return the file that a storage is, whose studies have one supervisor; None for a server."""
    if url.startswith(JOURNAL):
        return Path(url.removeprefix(JOURNAL)).absolute()
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return None
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    return Path(parsed.database).absolute()


def _open_journal(path: Path) -> BaseStorage:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(path)))
    except (OSError, ValueError, KeyError) as error:
        raise StudyError(f"the journal {path} cannot be opened: {one_line(error)}") from None


def _relax_sqlite(storage: "PatientStorage") -> None:
    """Put SQLite into write-ahead mode, so that the dashboard reads while the study writes.

    There a sync less a write is safe against crashes of the process.
    """
    with storage.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    event.listen(storage.engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous=NORMAL"))
    storage.engine.dispose()


class PatientStorage(RDBStorage):
    """A database that is waited for when it goes away: every call is tried again.

    A server is given `PATIENCE` seconds. A file is not waited for: what it lacks (disk, rights)
    does not come back by itself. Raises StudyError in the end.
    """

    def __init__(self, url: str, notify: Notify) -> None:
        self.notify = notify
        parsed = _parsed(url)
        self.dialect = parsed.get_backend_name()
        if self.dialect == "sqlite" and parsed.database in (None, "", ":memory:"):
            raise ArgumentError("a study outlives its process; name a file: sqlite:///studies.db")
        seconds = {"sqlite": ("timeout", SQLITE_TIMEOUT)}
        name, value = seconds.get(self.dialect, ("connect_timeout", CONNECT_TIMEOUT))
        arguments = {"connect_args": {name: value}, "pool_pre_ping": self.dialect in SERVERS}
        super().__init__(url, engine_kwargs=arguments)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Create a trial once: when the answer got lost, it is looked for before trying again."""
        number: int = self.patiently(lambda: self.get_n_trials(study_id))

        def create() -> int:
            if self.get_n_trials(study_id) > number:
                return self.get_trial_id_from_study_id_trial_number(study_id, number)
            return super(PatientStorage, self).create_new_trial(study_id, template_trial)

        trial_id: int = self.patiently(create)
        return trial_id

    def patiently(self, call: Callable[[], Any]) -> Any:
        """Make a call, again and again while the server does not answer."""
        deadline = time.monotonic() + PATIENCE
        waiting = False
        while True:
            try:
                answer = call()
            except (StorageInternalError, SQLAlchemyError) as error:
                reason = one_line(error.__cause__ or error)
                if self.dialect not in SERVERS or time.monotonic() > deadline:
                    raise StudyError(
                        f"the storage fails: {reason}; the same command goes on afterwards"
                    ) from None
                if not waiting:
                    self.notify(f"the storage does not answer, waiting: {reason}")
                waiting = True
                time.sleep(PAUSE)
            else:
                if waiting:
                    self.notify("the storage answers again")
                return answer


def _patient(name: str) -> Callable[..., Any]:
    """Make the patient form of one of RDBStorage's methods."""
    method = getattr(RDBStorage, name)

    @functools.wraps(method)
    def call(self: PatientStorage, *arguments: Any, **named: Any) -> Any:
        return self.patiently(lambda: method(self, *arguments, **named))

    return call


for _name in BaseStorage.__abstractmethods__ - {"create_new_trial"}:
    setattr(PatientStorage, _name, _patient(_name))


@contextmanager
def deciding(storage: BaseStorage, study: str) -> Iterator[None]:
    """Hold the right to decide on trials of `study` for the block: one supervisor at a time.

    On a server it is a lock of the session, which the server drops when the supervisor dies. A
    storage in a file has one supervisor, which holds it anyway.
    """
    dialect = getattr(storage, "dialect", "")
    if not isinstance(storage, PatientStorage) or dialect not in SERVERS:
        yield
        return
    take, drop = _LOCKS["postgresql" if dialect == "postgresql" else "mysql"]
    lock = {"name": f"retort.{study}"}

    def taken() -> Connection:
        connection = storage.engine.connect()
        connection.execute(text(take), lock)
        return connection

    connection: Connection = storage.patiently(taken)
    try:
        yield
    finally:
        with suppress(SQLAlchemyError):  # a connection that was lost has lost its lock too
            connection.execute(text(drop), lock)
        connection.close()


# statement that takes a lock by name, and that drops it
_LOCKS = {
    "postgresql": (
        "SELECT pg_advisory_lock(hashtextextended(:name, 0))",
        "SELECT pg_advisory_unlock(hashtextextended(:name, 0))",
    ),
    "mysql": ("SELECT GET_LOCK(SHA2(:name, 224), 600)", "SELECT RELEASE_LOCK(SHA2(:name, 224))"),
}


def shown(url: str) -> str:
    """Return the URL without its password, also when it is no URL."""
    try:
        parsed = _parsed(url)
        plain = parsed.render_as_string(hide_password=True) if parsed.password else url
    except (ArgumentError, ValueError):
        _, separator, tail = url.rpartition("@")
        plain = f"***@{tail}" if separator else url
    return re.sub(r"(?i)(passw(?:or)?d=)[^&]*", r"\1***", plain)


def _parsed(url: str) -> URL:
    """Raises ArgumentError for what is no URL, ValueError where host or port is none."""
    parsed = make_url(url)
    if "@" in (parsed.host or ""):  # the end of a password that holds an @
        raise ValueError
    return parsed


def one_line(error: BaseException) -> str:
    """Return an error's own words in one line, without SQLAlchemy's statement."""
    return " ".join(str(getattr(error, "orig", None) or error).split())
