"""One supervisor runs a study; a second one is refused or, once the first is gone, goes on."""

import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import gethostname
from typing import Any

import optuna
import pytest
import sqlalchemy

from storage.files.layout import Layout
from storage.files.ownership import study_lock
from storage.studies.databases import close_storage, open_storage
from tests.support.fakes import FakePool, Row, make_arm, make_search, rows, study_paths, trained
from tests.support.postgres import PostgreSQL, postgresql
from tests.support.processes import command, descendants
from tests.support.tiny import changed, timeless
from workers.events import Event, LastEvent, Stopped
from workers.jobs import Job, TrainJob

ROOT = Path(__file__).parents[2]
SECONDS = 120  # that a test waits for what happens soon, on a machine under load
TINY = shlex.split(
    "--train-size 60 --image-size 8 --teacher resnet8-w0.25 --teacher-epochs 1 --epochs 2 "
    "--batch-size 16 --seeds 1 --trials 4 --workers 1"
)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with postgresql() as server:
        yield server


# In a file.


def test_a_supervisor_that_was_killed_owns_nothing(tmp_path) -> None:
    script = (
        "import os, pathlib; from storage.files.ownership import study_lock\n"
        f"with study_lock(pathlib.Path({str(tmp_path)!r}) / 's.db', 'digits'):\n"
        "    os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list(tmp_path.glob("*.owner"))
    with study_lock(tmp_path / "s.db", "digits"):
        pass


# On a server.


def begin(root: Path, *more: str) -> subprocess.Popen[str]:
    """Start a tiny study whose supervisor looks after its session often."""
    script = (
        "import sys, workers.pools.worker_pool as pool\n"
        "pool.CHECK_SECONDS = 0.2\n"
        "from conductor.command_line.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    line = [sys.executable, "-c", script, *changed(TINY, more), "--root", str(root)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(line, cwd=ROOT, text=True, start_new_session=True, **pipes)


def wait_for(what: str, process: subprocess.Popen[str], happens: Any) -> None:
    deadline = time.monotonic() + SECONDS
    while not happens():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def query(url: str, statement: str) -> list[Any]:
    engine = sqlalchemy.create_engine(url)
    try:
        with engine.begin() as connection:
            return list(connection.execute(sqlalchemy.text(statement)))
    finally:
        engine.dispose()


def epochs(url: str) -> int:
    """Return how many epochs have been reported."""
    if not query(url, "SELECT 1 FROM pg_tables WHERE tablename = 'trial_intermediate_values'"):
        return 0
    return int(query(url, "SELECT count(*) FROM trial_intermediate_values")[0][0])


def end_session(url: str) -> None:
    """End the session that holds the study."""
    ended = query(url, "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
    assert len(ended) == 1


def database(server: PostgreSQL, name: str) -> str:
    """Return the URL of a new database."""
    engine = sqlalchemy.create_engine(server.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server.url.replace("/postgres?", f"/{name}?")


def lasting(trials: list[Row]) -> list[Row]:
    """Return rows without seconds and the names of artifacts, which differ from run to run."""

    def lasts(key: object) -> bool:
        return key != "seconds" and not str(key).startswith("artifacts:")

    return [
        tuple(
            {key: kept for key, kept in item.items() if lasts(key)}
            if isinstance(item, dict)
            else item
            for item in row
        )
        for row in trials
    ]


def stored(url: str) -> dict[str, list[Row]]:
    """Return the rows of both arms in a storage."""
    storage = open_storage(url)
    try:
        names = ("digits.scheduled", "digits.plain")
        return {
            name: lasting(rows(optuna.load_study(study_name=name, storage=storage)))
            for name in names
        }
    finally:
        close_storage(storage)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, list[Row]]:
    """What one study leaves that nothing disturbs."""
    root = tmp_path_factory.mktemp("alone")
    process = begin(root)
    _, error = process.communicate(timeout=5 * SECONDS)
    assert process.returncode == 0, error
    return stored(Layout(root).studies_url)


def finish(root: Path, url: str) -> None:
    process = begin(root, "--storage", url)
    _, error = process.communicate(timeout=5 * SECONDS)
    assert process.returncode == 0, error


@contextmanager
def asleep(root: Path, url: str) -> Iterator[subprocess.Popen[str]]:
    """Give a study whose supervisor sleeps amid the search; it wakes up after the block."""
    process = begin(root, "--storage", url)
    try:
        wait_for("a trial", process, lambda: epochs(url))
        os.kill(process.pid, signal.SIGSTOP)
        yield process
        os.kill(process.pid, signal.SIGCONT)
        process.wait(SECONDS)
    finally:
        process.kill()


def last_line(process: subprocess.Popen[str]) -> str:
    """Return the one line with which a supervisor has ended."""
    _, error = process.communicate(timeout=SECONDS)
    assert (process.returncode, error.count("\n")) == (2, 1), error
    return str(error)


def test_a_supervisor_whose_session_is_ended_stops_in_one_line_and_ends_its_jobs(
    tmp_path, server, alone
) -> None:
    url = database(server, "ended")
    with asleep(tmp_path, url) as process:
        family = list(descendants(process.pid))
        assert family
        end_session(url)
    line = last_line(process)
    assert "the database session that held study digits was ended; run the same command" in line
    deadline = time.monotonic() + SECONDS
    while any(map(command, family)):
        assert time.monotonic() < deadline, "its workers stay"
        time.sleep(0.02)
    finish(tmp_path, url)
    assert stored(url) == alone


def test_a_second_supervisor_is_refused_and_takes_over_once_the_session_is_gone(
    tmp_path, server, alone
) -> None:
    """The first one sleeps meanwhile; when it wakes up, it ends and has changed nothing."""
    url = database(server, "asleep")
    with asleep(tmp_path, url) as first:
        named = rf"study digits is being run by process {first.pid} on {gethostname()} since 2"
        assert re.search(named, last_line(begin(tmp_path, "--storage", url)))
        end_session(url)
        for worker in descendants(first.pid):  # they hold the locks of the runs at hand
            if "resource_tracker" not in command(worker):  # Python's own, which holds none
                os.kill(worker, signal.SIGKILL)
        finish(tmp_path, url)
        assert stored(url) == alone
        notes = query(url, "SELECT count(*) FROM study_system_attributes")
    assert "study digits was taken over by process" in last_line(first)
    assert stored(url) == alone
    assert query(url, "SELECT count(*) FROM study_system_attributes") == notes


@pytest.mark.slow
def test_a_study_whose_supervisor_is_killed_continues_from_its_checkpoints(
    tmp_path, server, alone
) -> None:
    url = database(server, "killed")
    process = begin(tmp_path, "--storage", url)
    wait_for("a trial", process, lambda: epochs(url))
    process.kill()
    process.communicate()
    finish(tmp_path, url)
    assert stored(url) == alone
    finish(tmp_path, url)
    assert stored(url) == alone


# At any moment.

PROMOTED = ["--epochs", "6", "--trials", "4"]  # rungs at epochs 1 and 2
KILLS = 8  # of each of four studies


@pytest.fixture(scope="module")
def promoted(tmp_path_factory) -> tuple[dict[str, list[Row]], Any, float]:
    """The rows and the report of a study with rungs that nothing disturbs.

    Also the seconds that its command takes when nothing is left to do.
    """
    root = tmp_path_factory.mktemp("promoted")
    for _ in range(2):
        started = time.monotonic()
        process = begin(root, *PROMOTED)
        _, error = process.communicate(timeout=5 * SECONDS)
        assert process.returncode == 0, error
    beginning = time.monotonic() - started
    return stored(Layout(root).studies_url), report_of(root), beginning


def report_of(root: Path) -> Any:
    """The report without times, what was opened when, and how the command was written."""
    text = Layout(root).study("digits").report_json.read_text()
    told = json.loads(text.replace(str(root), "ROOT"))
    return {key: timeless(kept) for key, kept in told.items() if key not in ("seal", "study")}


@pytest.mark.thorough
@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("where", ["sqlite", "postgresql"])
def test_a_study_with_rungs_killed_at_any_moment_ends_as_an_undisturbed_one(
    tmp_path, server, promoted, workers, where
) -> None:
    url = Layout(tmp_path).studies_url
    more = [*PROMOTED, "--workers", workers]
    if where == "postgresql":
        url = database(server, f"moments{workers}")
        more += ["--storage", url]
    rows, report, beginning = promoted
    draw = random.Random(f"{where} {workers}")
    killed = 0
    while killed < KILLS:
        process = begin(tmp_path, *more)
        moment = draw.uniform(0.4, 1.0) * beginning
        try:
            process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            killed += 1
        else:
            break
    assert killed >= KILLS - 2, "the study ends before it can be killed"
    process = begin(tmp_path, *more)
    _, error = process.communicate(timeout=5 * SECONDS)
    assert process.returncode == 0, error
    assert stored(url) == rows
    assert report_of(tmp_path) == report
    print(f"{where}, {workers} workers: killed {killed} times")


# Many trials.


class InstantPool(FakePool):
    """Runs up to `size` jobs at once, in any order, each an event a call; keeps no history."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.folders: list[str] = []

    def submit(self, job: Job) -> int:
        assert isinstance(job, TrainJob)
        assert self.busy < self.size
        self.folders.append(job.folder)
        draw = random.Random(job.seed)
        self._running[len(self.folders)] = iter(trained([draw.random() for _ in range(2)]))
        return len(self.folders)

    def stop(self, ticket: int) -> None:
        if ticket in self._running:
            self._running[ticket] = iter([Stopped()])

    def events(self, timeout: float | None = None) -> list[tuple[int, Event]]:
        ticket = self._random.choice(list(self._running))
        event = next(self._running[ticket])
        if isinstance(event, LastEvent):
            del self._running[ticket]
        return [(ticket, event)]


@pytest.mark.thorough
def test_a_thousand_instant_trials_are_each_run_once(tmp_path, record_property) -> None:
    storage = open_storage(Layout(tmp_path).studies_url)
    arm = make_arm(storage, "plain", lag=8)
    pool, paths = InstantPool(8), study_paths(tmp_path)
    began = time.perf_counter()
    make_search(tmp_path, [arm], pool).run(1000, lambda *ended: None)
    seconds = (time.perf_counter() - began) / 1000
    trials = arm.study.get_trials(deepcopy=False)
    close_storage(storage)
    assert [trial.number for trial in trials] == list(range(1000))
    assert all(trial.state.is_finished() for trial in trials)
    assert len(set(pool.folders)) == len(pool.folders) == 1000
    assert len(list(paths.folder.glob("trials/plain/*/result.json"))) == 1000
    record_property("seconds a trial", seconds)
    print(f"{1000 * seconds:.1f} ms a trial")
    assert seconds < 0.5
