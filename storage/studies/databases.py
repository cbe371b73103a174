"""Where Optuna studies live: SQLite, PostgreSQL, MySQL, or Optuna's journal file.

sqlite:///runs/studies.db
journal:runs/studies.journal
postgresql+psycopg://user@host/db
mysql+pymysql://user@host/db
"""

import logging
import re
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage
from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.engine.url import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    IntegrityError,
    NoSuchModuleError,
    ProgrammingError,
    SQLAlchemyError,
)

from kd.errors import RetortError, StudyError
from storage.files.layout import whole_path
from storage.studies.journal import JournalFile
from storage.studies.patience import (
    RESTORE,
    SECRET,
    Notify,
    PatientStorage,
    cause_of,
    failure,
    one_line,
    parse_url,
    remedy,
)

JOURNAL = "journal:"
OPENING_PAUSES = (0.1, 0.2, 0.5, 1.0)  # s between attempts to open a new database
FILES = (  # parameters of PostgreSQL's and MySQL's drivers that name one
    *("passfile", "sslcert", "sslkey", "sslrootcert", "sslcrl"),
    *("read_default_file", "ssl_ca", "ssl_cert", "ssl_key", "ssl_capath"),
)
PASSWORDS = (
    "give it in --storage again, or as PGPASSWORD or in ~/.pgpass for PostgreSQL, "
    "or with ?read_default_file=~/.my.cnf for MySQL"
)


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


def check_url(url: str) -> None:
    """Raise StudyError, in one line without any password, for what no study can be kept in.

    Nothing is opened or made. Messages of SQLAlchemy may hold a piece of the password.
    """
    if url.startswith(JOURNAL):
        if Path(url.removeprefix(JOURNAL)).is_dir():
            raise StudyError(f"--storage {url!r} names no file; name one, as in {JOURNAL}log")
        return
    try:
        parsed = parse_url(url)
    except ArgumentError:
        raise StudyError(
            f"--storage takes an SQLAlchemy URL or journal:FILE, got {shown(url)!r}"
        ) from None
    except ValueError:
        raise StudyError(
            f"--storage takes an SQLAlchemy URL, got {shown(url)!r}, whose parts cannot be told "
            "apart; percent-encode what user and password hold: @ as %40, / as %2F, : as %3A, "
            "? as %3F, & as %26"
        ) from None
    if parsed.get_backend_name() == "sqlite":
        _check_sqlite(url, parsed)


def _check_sqlite(url: str, parsed: URL) -> None:
    name = (parsed.database or "").removeprefix("file:")
    place = parsed.query.get("mode"), parsed.query.get("vfs")
    if name in ("", ":memory:") or "memory" in place or "memdb" in place:
        raise StudyError(
            f"--storage takes an SQLAlchemy URL of a database that outlives its process, got "
            f"{url!r}, which is in memory; name a file: sqlite:///studies.db"
        )
    file = storage_file(url)
    if file and file.is_dir():
        raise StudyError(f"the storage {url} is a folder; move it away, or name a file")


def _connect(url: str, notify: Notify) -> PatientStorage:
    """Connect, again if another process has just made the tables that we were about to make."""
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


def storage_file(url: str) -> Path | None:
    """Return the file that a storage is; None for a server."""
    if url.startswith(JOURNAL):
        return Path(url.removeprefix(JOURNAL)).absolute()
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return None
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    if parsed.database.startswith("file:") and parsed.query.get("uri"):  # SQLite's own URI
        return Path(unquote(urlsplit(parsed.database).path)).absolute()
    return Path(parsed.database).absolute()


def whole_url(url: str) -> str:
    """Return the URL of a storage with whole paths: of its file, or of files that a driver reads.

    A database in memory and what is no URL stay as they are, and so does `~` in a server's URL,
    which may be the home folder of another user there.
    """
    if url.startswith(JOURNAL) and url != JOURNAL:
        return f"{JOURNAL}{whole_path(url.removeprefix(JOURNAL))}"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return url
    if parsed.get_backend_name() == "sqlite":
        whole = parsed.set(database=_whole_database(parsed))
    else:
        files = {name: _whole_file(name, given) for name, given in parsed.query.items()}
        whole = parsed.set(query=files)
    return url if whole == parsed else whole.render_as_string(hide_password=False)


def _whole_database(url: URL) -> str | None:
    """Return SQLite's database, which may be `file:PATH` with ?uri=true, with its whole path."""
    database = url.database or ""
    prefix = "file:" if database.startswith("file:") and "uri" in url.query else ""
    path = database.removeprefix(prefix)
    in_memory = path in ("", ":memory:") or (prefix and url.query.get("mode") == "memory")
    return url.database if in_memory else f"{prefix}{whole_path(path)}"


def _whole_file(name: str, given: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """Return the value of a server's parameter: the whole path, where it names a file."""
    relative = name in FILES and isinstance(given, str) and given[:1] not in ("", "/", "~")
    return str(whole_path(str(given))) if relative and given != "system" else given


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


def without_password(url: str) -> str:
    """Return the URL as a study keeps it: with no password, and one server always written alike."""
    try:
        parsed = parse_url(url)
    except (ArgumentError, ValueError):
        return shown(url)
    query = {
        name: value
        for name, value in parsed.query.items()
        if not re.search(SECRET, name, re.IGNORECASE)
    }
    kept = URL.create(
        parsed.drivername,
        username=parsed.username or None,
        host=parsed.host,
        port=parsed.port,
        database=parsed.database,
        query=query,
    )
    unchanged = storage_file(url) is not None and kept == parsed
    return url if unchanged else kept.render_as_string(hide_password=False)


def shown(url: str) -> str:
    """Return the URL without its password. Where its parts are not known, only how it begins."""
    if url.startswith(JOURNAL):
        return url
    try:
        parsed = parse_url(url)
        plain = parsed.render_as_string(hide_password=True) if parsed.password else url
    except (ArgumentError, ValueError):
        beginning, colon, rest = url.partition(":")
        return f"{beginning}:{'//' * rest.startswith('//')}***" if colon else url
    return re.sub(rf"({SECRET}=).*", r"\1***", plain, flags=re.IGNORECASE | re.DOTALL)
