"""Optuna studies on any storage URL: opened, checked, resumed."""

import logging
import re
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy import URL, event, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from kd.errors import StudyError

METRIC = "validation accuracy"
SQLITE_TIMEOUT = 60  # s to wait for another writer, such as the dashboard saving a note


def study_name(name: str, arm: str) -> str:
    """Return the Optuna study's name of one arm."""
    return f"{name}.{arm}"


def open_storage(url: str) -> BaseStorage:
    """Connect to `url`. Raises StudyError, in one line, when that fails.

    SQLite is put into write-ahead mode, so that the dashboard reads while the study writes.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)
    shown = _shown(url)
    try:
        return _connected(make_url(url))
    except (ArgumentError, NoSuchModuleError) as error:
        raise StudyError(
            f"--storage takes an SQLAlchemy URL, got {shown!r}: {_line(error)}"
        ) from None
    except ValueError:  # of the port; the message might hold a piece of the password
        raise StudyError(
            f"--storage takes an SQLAlchemy URL, got {shown}: the port must be a number, and "
            "'/', ':' and '@' in a password are written %2F, %3A and %40"
        ) from None
    except ImportError as error:
        raise StudyError(f"the driver of {shown} is not installed: {_line(error)}") from None
    except RuntimeError as error:  # the tables are of another version of Optuna
        raise StudyError(f"the storage {shown} cannot be used: {_line(error)}") from None
    except (SQLAlchemyError, OSError) as error:
        raise StudyError(f"the storage {shown} does not answer: {_line(error)}") from None


def _connected(url: URL) -> RDBStorage:
    sqlite = url.get_backend_name() == "sqlite"
    if sqlite and url.database in (None, "", ":memory:"):
        raise ArgumentError(
            "a study must outlive its process, so name a file: sqlite:///studies.db"
        )
    arguments: dict[str, Any] = {"timeout": SQLITE_TIMEOUT} if sqlite else {}
    storage = RDBStorage(
        url.render_as_string(hide_password=False),
        engine_kwargs={"connect_args": arguments, "pool_pre_ping": not sqlite},
        skip_table_creation=False,
    )
    if sqlite:
        with storage.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        event.listen(storage.engine, "connect", _relax_sqlite)
        storage.engine.dispose()
    return storage


def _relax_sqlite(connection: Any, _: Any) -> None:
    """In write-ahead mode this is safe against crashes of the process, and saves a sync a write."""
    connection.execute("PRAGMA synchronous=NORMAL")


def _shown(url: str) -> str:
    """Return the URL without its password, also where it is no URL; SQLite has none."""
    if url.startswith("sqlite:"):
        return url
    head, separator, tail = url.rpartition("@")
    if separator:
        scheme, slashes, _ = head.partition("//")
        tail = f"{scheme}//…@{tail}" if slashes else f"…@{tail}"
    return re.sub(r"(?i)(passw(?:or)?d=)[^&]*", r"\1…", tail)


def _line(error: BaseException) -> str:
    if isinstance(error, StorageInternalError) and error.__cause__:
        return _line(error.__cause__)
    return " ".join(str(getattr(error, "orig", None) or error).split())


def open_study(storage: BaseStorage, name: str, attributes: Mapping[str, Any]) -> optuna.Study:
    """Create or resume a study, maximising validation accuracy.

    `attributes` are kept as user attributes. Raises StudyError when the study exists with others:
    a study is not resumed under another protocol, sampler, pruner, lag or space.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", load_if_exists=True
        )
        kept = study.user_attrs
        for key, value in attributes.items():
            if key not in kept:
                study.set_user_attr(key, value)
            elif kept[key] != value:
                raise StudyError(
                    f"{name} was begun with {key} {kept[key]!r}, not {value!r}; "
                    "use that, or another --name"
                )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if study.metric_names != [METRIC]:
                study.set_metric_names([METRIC])
    except (SQLAlchemyError, StorageInternalError) as error:
        raise StudyError(f"the storage fails: {_line(error)}") from None
    return study


def load_studies(url: str, name: str, arms: list[str]) -> dict[str, optuna.Study]:
    """Open the studies of `arms` for reading. Raises StudyError when one is missing."""
    storage = open_storage(url)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return {
            arm: optuna.load_study(study_name=study_name(name, arm), storage=storage)
            for arm in arms
        }
    except KeyError:
        raise StudyError(f"{_shown(url)} holds no study named {name}") from None
