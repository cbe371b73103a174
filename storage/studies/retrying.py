"""Retry database calls while a server does not answer, without doing a write twice."""

import functools
import sqlite3
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import URL
from sqlalchemy.exc import (
    DataError,
    IntegrityError,
    NotSupportedError,
    ProgrammingError,
    SQLAlchemyError,
)

from kd.errors import StudyError
from storage.files.artifacts import CONTINUES
from storage.studies.optuna_internals import trial_id_of
from storage.studies.transactions import WholeTrialStorage
from storage.studies.urls import parse_url

SQLITE_TIMEOUT = 60  # s to wait for another writer, such as the dashboard when it saves a note
CONNECT_TIMEOUT = 10  # s to wait for a server when a study is opened
MAX_WAIT = 600  # s to wait for a server that stops answering during a study
PAUSE = 1.0  # s between two attempts
SERVERS = ("postgresql", "mysql", "mariadb")
# Errors with which a server rejects a call: retrying does not help.
REFUSALS = (DataError, IntegrityError, NotSupportedError, ProgrammingError)
# Prefixes of SQLite's error codes that are due to the machine; all others are due to a damaged
# file.
LACKS = ("FULL", "IOERR", "BUSY", "LOCKED", "CANTOPEN", "READONLY", "PERM", "NOMEM", "PROTOCOL")
RESTORE = "restore it, or delete it and run the study again: all of its trials run again"

Notify = Callable[[str], None]


class _NumberTakenError(StudyError):
    """A trial with the number of the trial to create exists already."""


class RetryingStorage(WholeTrialStorage):
    """Optuna's storage in a database, which retries every call while a server does not answer.

    Calls to a server are retried for `MAX_WAIT` seconds. Errors of a file (disk, permissions) are
    not, since they persist. Raises StudyError after that time, and for unreadable content.
    """

    def __init__(self, url: str, notify: Notify) -> None:
        self.notify = notify
        self._given_up = False
        parsed = parse_url(url)
        self.dialect = parsed.get_backend_name()
        waits = {"connect_timeout": CONNECT_TIMEOUT}
        if self.dialect == "sqlite":
            waits = {"timeout": SQLITE_TIMEOUT}
        arguments = {"connect_args": waits, "pool_pre_ping": self.dialect in SERVERS}
        try:
            super().__init__(url, engine_kwargs=arguments)
        except BaseException:
            if hasattr(self, "engine"):
                self.engine.dispose()
            raise

    def retry(self, call: Callable[[], Any]) -> Any:
        """Return the result of `call`, which is repeated while the server does not answer."""
        deadline = time.monotonic() + MAX_WAIT
        waiting = False
        while True:
            try:
                answer = call()
            except (StorageInternalError, SQLAlchemyError) as error:
                cause = cause_of(error)
                if not self._may_wait(cause, deadline):
                    self._given_up = True
                    raise StudyError(failure(cause, self.engine.url)) from None
                if not waiting:
                    self.notify(f"the storage does not answer, waiting: {one_line(cause)}")
                waiting = True
                self._pause()
            else:
                if waiting:
                    self.notify("the storage answers again")
                self._given_up = False
                return answer

    def _may_wait(self, cause: BaseException, deadline: float) -> bool:
        waits = self.dialect in SERVERS and not isinstance(cause, REFUSALS)
        return waits and not self._given_up and time.monotonic() < deadline

    def _pause(self) -> None:
        """Wait before the next attempt. After an interrupt, later calls are not retried."""
        try:
            time.sleep(PAUSE)
        except BaseException:
            self._given_up = True
            raise

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        return trial_id_of(self._create_new_trial(study_id, template_trial))

    def _create_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None = None
    ) -> FrozenTrial:
        """Create a trial exactly once, with the number of its template, if it has one.

        The transaction checks that this is the next number, so that a lost reply does not lead to
        two trials. Raises StudyError when the number belongs to another trial.
        """
        create = super()._create_new_trial
        try:
            created: FrozenTrial = self.retry(lambda: create(study_id, template_trial))
        except _NumberTakenError:
            for trial in self._get_trials(study_id, None, set(), -1):
                if template_trial and _is_same(trial, template_trial):
                    return trial
            raise
        return created

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: Any
    ) -> Any:
        trial = super()._get_prepared_new_trial(study_id, template_trial, session)
        wanted = -1 if template_trial is None else template_trial.number
        if wanted not in (-1, trial.number):
            raise _NumberTakenError(
                f"trial {wanted} of the study was not written by this supervisor; {CONTINUES}"
            )
        return trial


def _is_same(trial: FrozenTrial, template: FrozenTrial) -> bool:
    """Return whether a stored trial was created from `template`."""
    kept = ("number", "params", "user_attrs")
    return all(getattr(trial, name) == getattr(template, name) for name in kept)


def _retried(name: str) -> Callable[..., Any]:
    """Return a storage method that retries."""
    method = getattr(WholeTrialStorage, name)

    @functools.wraps(method)
    def call(self: RetryingStorage, *arguments: Any, **named: Any) -> Any:
        return self.retry(lambda: method(self, *arguments, **named))

    return call


def _retried_read(name: str) -> Callable[..., Any]:
    """Return a reading method that retries, and raises StudyError for unreadable content."""
    retried = _retried(name)

    @functools.wraps(retried)
    def call(self: RetryingStorage, *arguments: Any, **named: Any) -> Any:
        try:
            return retried(self, *arguments, **named)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise StudyError(
                f"the storage is damaged: part of it cannot be read ({one_line(error)}); {RESTORE}"
            ) from None

    return call


def _retried_end(name: str) -> Callable[..., bool]:
    """Return a method that ends a trial and retries; it may have succeeded without a reply."""

    @functools.wraps(getattr(WholeTrialStorage, name))
    def call(
        self: RetryingStorage,
        trial_id: int,
        state: TrialState,
        values: Sequence[float] | None = None,
        *more: Any,
    ) -> bool:
        method, attempts = getattr(super(RetryingStorage, self), name), count(1)

        def end() -> bool:
            attempt = next(attempts)
            try:
                return bool(method(trial_id, state, values, *more))
            except UpdateFinishedTrialError:
                trial = self.get_trial(trial_id)
                if attempt == 1 or (trial.state, trial.values) != (state, values):
                    raise
                return True

        return bool(self.retry(end))

    return call


# Optuna's cache of the storage calls private methods as well as public ones.
_READING = (
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_study_directions",
    "get_all_studies",
    "get_all_trials",
    "_get_trials",
)
_ENDING = ("set_trial_state_values", "end_trial")
_OTHERS = {
    *BaseStorage.__abstractmethods__,
    *("_set_trial_param", "_get_best_trial_id", "matching_system_attrs"),
}
for _name in _READING:
    setattr(RetryingStorage, _name, _retried_read(_name))
for _name in _ENDING:
    setattr(RetryingStorage, _name, _retried_end(_name))
for _name in _OTHERS - {*_READING, *vars(RetryingStorage)}:
    setattr(RetryingStorage, _name, _retried(_name))


def cause_of(error: BaseException) -> BaseException:
    """Return SQLAlchemy's error inside an error of Optuna; other errors unchanged."""
    wrapped = isinstance(error, StorageInternalError)
    return error.__cause__ or error if wrapped else error


def failure(error: BaseException, url: URL) -> str:
    """Return the message for a failing storage: its file, the error, and the remedy."""
    file = f" {url.database}" if url.get_backend_name() == "sqlite" else ""
    return f"the storage{file} fails: {one_line(error)}; {remedy(error)}"


def remedy(error: BaseException) -> str:
    """Return the remedy for an error: restore a damaged file, else run the command again."""
    cause = getattr(error, "orig", None)
    code = getattr(cause, "sqlite_errorname", "").removeprefix("SQLITE_")
    damaged = isinstance(cause, sqlite3.Error) and not code.startswith(LACKS)
    return RESTORE if damaged else CONTINUES


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, without SQLAlchemy's statement."""
    return " ".join(str(getattr(error, "orig", None) or error).split()) or type(error).__name__
