"""Where Optuna studies live: SQLite, PostgreSQL, MySQL, or Optuna's journal file.

sqlite:///runs/studies.db            one supervisor a study
journal:runs/studies.journal         one supervisor a study
postgresql+psycopg://user@host/db    several supervisors may share a study
mysql+pymysql://user@host/db         several supervisors may share a study
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage
from sqlalchemy import Connection, event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.engine.url import URL, make_url
from sqlalchemy.exc import (
    IntegrityError,
    NoSuchModuleError,
    ProgrammingError,
    SQLAlchemyError,
)

from kd.errors import RetortError, StudyError
from storage.studies.journal import JournalFile
from storage.studies.patience import (
    RESTORE,
    SERVERS,
    Notify,
    PatientStorage,
    cause_of,
    failure,
    one_line,
    remedy,
)
from storage.studies.urls import JOURNAL, check_url, shown, storage_file

OPENING_PAUSES = (0.1, 0.2, 0.5, 1.0)  # s between attempts to open a new database
PASSWORDS = (
    "give it in --storage again, or as PGPASSWORD or in ~/.pgpass for PostgreSQL, "
    "or with ?read_default_file=~/.my.cnf for MySQL"
)
HOLDING_SECONDS = 30  # that one supervisor may decide before the server lets the next one


def open_storage(url: str, notify: Notify = lambda message: None) -> BaseStorage:
    """Connect to `url`. Raises StudyError, in one line, when that fails.

    A server that goes away later is waited for, and `notify` is told.
    """
    check_url(url)
    if url.startswith(JOURNAL):
        return _open_journal(Path(url.removeprefix(JOURNAL)))
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        storage = _connect(url, notify)
        if storage.dialect == "sqlite":
            _relax_sqlite(storage)
    except NoSuchModuleError as error:
        raise StudyError(
            f"--storage takes an SQLAlchemy URL or journal:FILE, got {shown(url)!r}: "
            f"{one_line(error)}"
        ) from None
    except UnicodeDecodeError as error:  # of a name in a damaged file
        raise StudyError(
            f"the storage {shown(url)} is damaged ({one_line(error)}); {RESTORE}"
        ) from None
    except ImportError as error:
        raise StudyError(
            f"the driver of {shown(url)} is not installed: {one_line(error)}; "
            "pip install '.[postgresql]' or '.[mysql]'"
        ) from None
    except (TypeError, AttributeError) as error:  # it does not know how to wait for a connection
        raise StudyError(
            f"the driver of {shown(url)} is none of psycopg, pymysql and mysqldb: {one_line(error)}"
        ) from None
    except RuntimeError as error:  # tables of another version of Optuna
        raise StudyError(f"the storage {shown(url)} cannot be used: {one_line(error)}") from None
    except (SQLAlchemyError, StorageInternalError, OSError) as error:
        raise StudyError(
            f"the storage {shown(url)} does not answer: {one_line(error)}{_advice(url, error)}"
        ) from None
    return storage


def _connect(url: str, notify: Notify) -> PatientStorage:
    """Connect, again if another supervisor has just made the tables that we were about to make."""
    for pause in OPENING_PAUSES:
        try:
            return PatientStorage(url, notify)
        except (SQLAlchemyError, StorageInternalError) as error:
            cause = cause_of(error)
            made = isinstance(cause, IntegrityError | ProgrammingError)
            if not made and "already exists" not in one_line(cause):
                raise
            time.sleep(pause)
    return PatientStorage(url, notify)


def _advice(url: str, error: Exception) -> str:
    if storage_file(url):
        return f"; {remedy(cause_of(error))}"
    lacking = "password" in str(error) and not make_url(url).password
    return f"; no study keeps a password: {PASSWORDS}" if lacking else ""


def close_storage(storage: BaseStorage) -> None:
    """Close the connections that a storage holds open."""
    if isinstance(storage, PatientStorage):
        storage.remove_session()
        storage.engine.dispose()


def _open_journal(path: Path) -> BaseStorage:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFile(path))
    except RetortError:
        raise
    except Exception as error:  # replaying a damaged journal Optuna raises almost anything
        raise StudyError(
            f"the journal {path} cannot be opened: {one_line(error)}; {RESTORE}"
        ) from None


def _relax_sqlite(storage: PatientStorage) -> None:
    """Put SQLite into write-ahead mode, so that the dashboard reads while the study writes.

    There a sync less a write is safe against crashes of the process.
    """
    try:
        with storage.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            found = str(connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar())
    finally:
        storage.engine.dispose()
    if found != "ok":
        raise StudyError(
            f"the storage {shown(str(storage.url))} is damaged ({' '.join(found.split())}); "
            f"{RESTORE}"
        )
    event.listen(storage.engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous=NORMAL"))
    url = storage.engine.url
    event.listen(storage.engine, "handle_error", lambda context: _fail_at_once(context, url))


def _fail_at_once(context: ExceptionContext, url: URL) -> None:
    """Turn SQLite's errors into one that Optuna does not answer by trying again for seconds."""
    error = context.sqlalchemy_exception or context.original_exception
    if isinstance(error, SQLAlchemyError) and not isinstance(error, IntegrityError):
        raise StudyError(failure(error, url))


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
    prepare, take, drop = _LOCKS["postgresql" if dialect == "postgresql" else "mysql"]
    lock = {"name": f"retort.{study}"}

    def taken() -> Connection:
        connection = storage.engine.connect()
        try:
            connection.execute(text(prepare))
            if connection.execute(text(take), lock).scalar() in (0, None):
                raise StudyError(f"another supervisor decides on {study} and does not let go")
        except BaseException:
            connection.close()
            raise
        return connection

    connection: Connection = storage.patiently(taken)
    try:
        yield
    finally:
        with suppress(SQLAlchemyError):  # a connection that was lost has lost its lock too
            connection.execute(text(drop), lock)
            connection.close()


# Statements that bound how long a lock is held in silence, take it by name, and drop it. A
# supervisor that was put to sleep amid a decision loses its lock so; what it then wants to write
# is refused, since the trial's number is taken (`storage.studies.patience`).
_LOCKS = {
    "postgresql": (
        f"SET LOCAL idle_in_transaction_session_timeout = '{HOLDING_SECONDS}s'",
        "SELECT pg_advisory_lock(hashtextextended(:name, 0))",
        "SELECT pg_advisory_unlock(hashtextextended(:name, 0))",
    ),
    "mysql": (
        f"SET SESSION wait_timeout = {HOLDING_SECONDS}",
        "SELECT GET_LOCK(SHA2(:name, 224), 600)",
        "SELECT RELEASE_LOCK(SHA2(:name, 224))",
    ),
}
