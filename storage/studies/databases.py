"""Open the storage of Optuna studies: SQLite, PostgreSQL, MySQL, or Optuna's journal file.

sqlite:///runs/studies.db
journal:runs/studies.journal
postgresql+psycopg://user@host/db
mysql+pymysql://user@host/db
"""

import logging
import time
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage
from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.engine.url import URL, make_url
from sqlalchemy.exc import IntegrityError, NoSuchModuleError, ProgrammingError, SQLAlchemyError

from kd.errors import RetortError, StudyError
from storage.studies.journal import JournalFile
from storage.studies.retrying import (
    RESTORE,
    SQLITE_TIMEOUT,
    Notify,
    RetryingStorage,
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


def open_storage(url: str, notify: Notify = lambda message: None) -> BaseStorage:
    """Return the storage at `url`. Raises StudyError, in one line, when it cannot be opened.

    If a server stops answering later, calls are retried, and `notify` receives a message.
    """
    check_url(url)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if url.startswith(JOURNAL):
        return _open_journal(Path(url.removeprefix(JOURNAL)))
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        return _connect(url, notify)
    except NoSuchModuleError as error:
        raise StudyError(
            f"--storage takes an SQLAlchemy URL or journal:FILE, got {shown(url)!r}: "
            f"{one_line(error)}"
        ) from None
    except UnicodeDecodeError as error:  # a name in a damaged file
        raise StudyError(
            f"the storage {shown(url)} is damaged ({one_line(error)}); {RESTORE}"
        ) from None
    except ImportError as error:
        raise StudyError(
            f"the driver of {shown(url)} is not installed: {one_line(error)}; "
            "pip install '.[postgresql]' or '.[mysql]'"
        ) from None
    except (TypeError, AttributeError) as error:  # a driver without `connect_timeout`
        raise StudyError(
            f"the driver of {shown(url)} must be psycopg, pymysql or mysqldb: {one_line(error)}"
        ) from None
    except RuntimeError as error:  # tables of another version of Optuna
        raise StudyError(f"the storage {shown(url)} cannot be used: {one_line(error)}") from None
    except (SQLAlchemyError, StorageInternalError, OSError) as error:
        raise StudyError(
            f"the storage {shown(url)} does not answer: {one_line(error)}{_advice(url, error)}"
        ) from None


def _connect(url: str, notify: Notify) -> RetryingStorage:
    """Return the storage; try again if another process is creating the tables.

    SQLite does not wait for a lock in order to change its journal; for others it has waited.
    """
    deadline = time.monotonic() + SQLITE_TIMEOUT
    for pause in OPENING_PAUSES:
        try:
            return _connected(url, notify)
        except (SQLAlchemyError, StorageInternalError) as error:
            cause = cause_of(error)
            made = isinstance(cause, IntegrityError | ProgrammingError)
            making = "locked" in one_line(cause) and time.monotonic() < deadline
            if not made and not making and "already exists" not in one_line(cause):
                raise
            time.sleep(pause)
    return _connected(url, notify)


def _connected(url: str, notify: Notify) -> RetryingStorage:
    storage = RetryingStorage(url, notify)
    if storage.dialect == "sqlite":
        _relax_sqlite(storage)
    return storage


def _advice(url: str, error: Exception) -> str:
    if storage_file(url):
        return f"; {remedy(cause_of(error))}"
    lacking = "password" in str(error) and not make_url(url).password
    return f"; a study does not store the password: {PASSWORDS}" if lacking else ""


def close_storage(storage: BaseStorage) -> None:
    """Close the open connections of a storage."""
    if isinstance(storage, RetryingStorage):
        storage.remove_session()
        storage.engine.dispose()


def _open_journal(path: Path) -> BaseStorage:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFile(path))
    except RetortError:
        raise
    except Exception as error:  # for a damaged journal, Optuna raises almost anything
        raise StudyError(
            f"the journal {path} cannot be opened: {one_line(error)}; {RESTORE}"
        ) from None


def _relax_sqlite(storage: RetryingStorage) -> None:
    """Put SQLite into write-ahead mode, so that the dashboard can read while the study writes.

    In this mode, a crash of the process is safe with one sync less per write.
    """
    try:
        with storage.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            problem = str(connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar())
    finally:
        storage.engine.dispose()
    if problem != "ok":
        raise StudyError(
            f"the storage {shown(str(storage.url))} is damaged ({' '.join(problem.split())}); "
            f"{RESTORE}"
        )
    event.listen(storage.engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous=NORMAL"))
    url = storage.engine.url
    event.listen(storage.engine, "handle_error", lambda context: _fail_at_once(context, url))


def _fail_at_once(context: ExceptionContext, url: URL) -> None:
    """Turn SQLite's errors into StudyError, which Optuna does not retry for seconds."""
    error = context.sqlalchemy_exception or context.original_exception
    if isinstance(error, SQLAlchemyError) and not isinstance(error, IntegrityError):
        raise StudyError(failure(error, url))
