"""Allow one supervisor per study on a database server, with a lock and a fencing number.

For a file (SQLite, journal) the lock is the operating system's (`storage.files.ownership`), and
ends with the process. On a server it belongs to a database session, which may end before its
supervisor. So every supervisor takes the next fencing number with the lock, and every writing
transaction compares its own number with the latest one.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    MetaData,
    Select,
    String,
    Table,
    event,
    select,
    text,
)
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

from kd.errors import StudyError
from storage.files.artifacts import CONTINUES
from storage.files.ownership import holder, refusal
from storage.studies.retrying import SERVERS, RetryingStorage

WRITES = ("INSERT", "UPDATE", "DELETE")  # statements that the fencing number guards

SUPERVISORS = Table(
    "retort_supervisors",
    MetaData(),
    Column("study", String(255), primary_key=True),
    Column("number", BigInteger, nullable=False),  # the fencing number: one more each time
    Column("holder", String(512), nullable=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dialect:
    """Statements of a server."""

    settings: tuple[str, ...]  # of the session that holds the lock
    take: str  # acquires the lock `:name` without waiting
    drop: str
    started: str  # last column: start time of the server in seconds; for MySQL its uptime
    same_start: float  # s by which two readings of one start may differ
    asleep: str  # ends a session that is idle within a transaction


# If a supervisor's machine is lost, PostgreSQL detects it within a minute, MySQL when the keepalive
# of its operating system does. MySQL's locks are per server, PostgreSQL's per database.
_POSTGRESQL = _Dialect(
    settings=(
        "SET tcp_keepalives_idle = 15",
        "SET tcp_keepalives_interval = 15",
        "SET tcp_keepalives_count = 3",
    ),
    take="SELECT pg_try_advisory_lock(hashtextextended(:name, 0))",
    drop="SELECT pg_advisory_unlock(hashtextextended(:name, 0))",
    started="SELECT extract(epoch FROM pg_postmaster_start_time())",
    same_start=0.0,  # PostgreSQL stores the start time itself
    asleep="SET idle_in_transaction_session_timeout = '30s'",
)
_MYSQL = _Dialect(
    settings=("SET SESSION wait_timeout = 86400",),
    take="SELECT GET_LOCK(SHA2(CONCAT(DATABASE(), '/', :name), 224), 0)",
    drop="SELECT RELEASE_LOCK(SHA2(CONCAT(DATABASE(), '/', :name), 224))",
    started="SHOW GLOBAL STATUS LIKE 'Uptime'",
    same_start=2.0,  # MySQL reports uptime in whole seconds, and the clock is read separately
    asleep="SET SESSION wait_timeout = 30",
)

Check = Callable[[], None]  # raises StudyError once another supervisor may have taken over


@contextmanager
def supervisor_session(storage: BaseStorage, study: str) -> Iterator[Check]:
    """Be the only supervisor of a study on a server in the block; yield a check of that.

    Writes of `storage` in the block are rejected once another supervisor has taken over. Does
    nothing for a storage in a file, which `storage.files.ownership` locks. Raises StudyError,
    naming the other supervisor, if there is one.
    """
    if not isinstance(storage, RetryingStorage) or storage.dialect not in SERVERS:
        yield lambda: None
        return
    session = _Session(storage, study)
    try:
        with _fence(storage.engine, session):
            yield session.check
    except UpdateFinishedTrialError:  # a successor has ended the trial, which Optuna checks
        session.check()
        raise
    finally:
        session.close()


class _Session:
    """A database session that holds the lock of a study, and the fencing number that came with it.

    After a restart of the server, every supervisor has lost its session, and the first to connect
    again continues. If only this session has ended, its supervisor ends too.
    """

    def __init__(self, storage: RetryingStorage, study: str) -> None:
        self.study = study
        self.dialect = _POSTGRESQL if storage.dialect == "postgresql" else _MYSQL
        self._storage = storage
        self._connection: Connection = storage.retry(self._begin)

    def _begin(self) -> Connection:
        """Acquire the lock and the next fencing number. Raises StudyError if the lock is held."""
        with suppress(IntegrityError, ProgrammingError):  # another process is creating the table
            SUPERVISORS.metadata.create_all(self._storage.engine)
        with self._connecting() as connection:
            taken = self._take(connection)
            number, who = self._latest(connection)
            if not taken:
                raise refusal(self.study, who)
            self.number = number + 1
            self._started = self._server_start(connection)
            self._write(connection)
            return connection

    def check(self) -> None:
        """Raise StudyError if the session has ended and another may have taken over."""
        try:
            self._connection.execute(text("SELECT 1"))
        except SQLAlchemyError:
            with suppress(SQLAlchemyError):
                self._connection.invalidate()
                self._connection.close()
            self._connection = self._storage.retry(self._return)

    def _return(self) -> Connection:
        """Acquire the lock again after a restart of the server. Raises StudyError if it is held."""
        with self._connecting() as connection:
            started = self._server_start(connection)
            taken = self._take(connection)
            number, who = self._latest(connection)
            if number != self.number or not taken:
                raise self.lost(who)
            if abs(started - self._started) <= self.dialect.same_start:
                raise StudyError(
                    f"the database session that held study {self.study} was ended; {CONTINUES}"
                )
            self._started = started
            return connection

    def lost(self, who: str) -> StudyError:
        return StudyError(f"study {self.study} was taken over by {who}; this supervisor ends")

    def close(self) -> None:
        """Release the lock, if the session still holds it."""
        with suppress(SQLAlchemyError):
            self._connection.execute(text(self.dialect.drop), self._lock)
            self._connection.invalidate()  # do not reuse a connection with these settings
        with suppress(SQLAlchemyError):
            self._connection.close()

    @property
    def _lock(self) -> dict[str, str]:
        return {"name": f"retort.{self.study}"}

    @contextmanager
    def _connecting(self) -> Iterator[Connection]:
        """Yield a new connection, which is closed if the block raises."""
        connection = self._storage.engine.connect()
        try:
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            for setting in self.dialect.settings:
                connection.execute(text(setting))
            yield connection
        except BaseException:
            with suppress(SQLAlchemyError):
                connection.invalidate()
                connection.close()
            raise

    def _take(self, connection: Connection) -> bool:
        return connection.execute(text(self.dialect.take), self._lock).scalar() in (1, True)

    def _server_start(self, connection: Connection) -> float:
        """Return the server's start time, in seconds since 1970 by its own clock."""
        seconds = float(connection.execute(text(self.dialect.started)).one()[-1])
        if self.dialect is _POSTGRESQL:
            return seconds
        return float(connection.execute(text("SELECT UNIX_TIMESTAMP()")).one()[0]) - seconds

    def _latest(self, connection: Connection) -> tuple[int, str]:
        """Return the latest fencing number of the study and its holder; 0 before the first."""
        row: Any = connection.execute(_latest_number(self.study)).first()
        return (row.number, row.holder) if row else (0, "")

    def _write(self, connection: Connection) -> None:
        """Store the number; later transactions with older numbers are rejected."""
        values = {"number": self.number, "holder": holder()}
        change = SUPERVISORS.update().where(SUPERVISORS.c.study == self.study).values(**values)
        if not connection.execute(change).rowcount:
            connection.execute(SUPERVISORS.insert().values(study=self.study, **values))


def _latest_number(study: str) -> Select[tuple[int, str]]:
    query = select(SUPERVISORS.c.number, SUPERVISORS.c.holder)
    return query.where(SUPERVISORS.c.study == study)


@contextmanager
def _fence(engine: Engine, session: _Session) -> Iterator[None]:
    """Compare the fencing number in each transaction of `engine` that writes within the block.

    The row stays locked against a new number until that transaction ends. So a transaction that has
    passed the comparison is committed before the next supervisor reads the study.
    """
    query = _latest_number(session.study).with_for_update(read=True)

    def begin(connection: Connection) -> None:
        connection.info["passed"] = False

    def compare(connection: Connection, cursor: object, statement: str, *others: object) -> None:
        if connection.info.get("passed") or not statement.lstrip().upper().startswith(WRITES):
            return
        connection.info["passed"] = True
        row: Any = connection.execute(query).first()
        if row is None or row.number != session.number:
            raise session.lost(row.holder if row else "another supervisor")

    def prepare(raw: Any, record: object) -> None:
        with closing(raw.cursor()) as cursor:
            cursor.execute(session.dialect.asleep)
        raw.commit()

    listeners = (
        (engine, "begin", begin),
        (engine, "before_cursor_execute", compare),
        (engine, "connect", prepare),
    )
    for listener in listeners:
        event.listen(*listener)
    engine.dispose()  # existing connections were not prepared
    try:
        yield
    finally:
        for listener in listeners:
            event.remove(*listener)
