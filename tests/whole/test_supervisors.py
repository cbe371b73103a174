"""Supervisors: several share a study on a server, one owns it in a file; none loses a trial."""

import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage, InMemoryStorage

from conductor.command_line.cli import main
from conductor.search.arm import Arm
from conductor.search.loop import Search
from storage.files.layout import Layout
from storage.files.ownership import owned
from storage.studies.databases import close_storage, deciding, open_storage
from tests.support.fakes import (
    FakePool,
    Killed,
    Row,
    job_maker,
    landscape,
    make_arm,
    quiet,
    rows,
    search,
    study_paths,
    trained,
)
from tests.support.postgres import PostgreSQL, postgresql
from tests.support.tiny import changed
from workers.events import Event, LastEvent, Stopped
from workers.jobs import Job, TrainJob
from workers.pools.crew import Crew

ROOT = Path(__file__).parents[2]
CHOSEN: dict[str, Any] = {"sampler": "tpe", "pruner": "median", "space": "plain", "lag": 4}
TRIALS = 14


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with postgresql() as server:
        yield server


@pytest.fixture(autouse=True)
def _quick(request, monkeypatch):
    """Nobody waits: neither for the disk, nor for others, nor to be sure that one is dead."""
    monkeypatch.setattr("storage.files.artifacts.os.fsync", lambda descriptor: None)
    monkeypatch.setattr("conductor.search.loop.LOOK_SECONDS", 0.02)
    monkeypatch.setattr("conductor.search.membership.BEAT_SECONDS", 0.05)
    monkeypatch.setattr("conductor.search.membership.DEAD_SECONDS", 0.5)


Begin = Callable[[], Arm]


@pytest.fixture
def begin(request, server) -> Iterator[Begin]:
    """Open an arm of this test's study, as one more supervisor that shares it."""
    opened: list[BaseStorage] = []
    name = request.node.name.partition("[")[0]

    def begin() -> Arm:
        opened.append(open_storage(server.url))
        lock = f"{name}.plain"
        storage = opened[-1]
        return make_arm(
            storage, name=name, shared=True, lock=lambda: deciding(storage, lock), **CHOSEN
        )

    begin.study = name  # type: ignore[attr-defined]
    yield begin
    for storage in opened:
        close_storage(storage)


def alone(root: Path, begin: Begin) -> list[Row]:
    """Return the rows that one supervisor leaves, in memory."""
    arm = make_arm(InMemoryStorage(), name=begin.study, **CHOSEN)  # type: ignore[attr-defined]
    search(root, [arm], FakePool(), TRIALS)
    return rows(arm.study)


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


# Sharing.


def test_supervisors_on_one_server_lose_no_trial_and_run_none_twice(tmp_path, begin) -> None:
    arms, pools = [begin() for _ in range(3)], [FakePool(2, order) for order in range(3)]
    with ThreadPoolExecutor(3) as threads:
        done = [
            threads.submit(search, tmp_path, [arm], pool, TRIALS)
            for arm, pool in zip(arms, pools, strict=True)
        ]
    for future in done:
        future.result()
    assert rows(arms[0].study) == alone(tmp_path, begin)
    folders = [job.folder for pool in pools for job in pool.jobs if isinstance(job, TrainJob)]
    assert len(folders) == len(set(folders)) == TRIALS


def test_trials_of_a_supervisor_that_died_are_taken_over(tmp_path, begin) -> None:
    dead, pool = begin(), FakePool(3)
    pool.fuse = 6
    with pytest.raises(Killed):  # it also says that it leaves, which a kill would not let it
        search(tmp_path, [dead], pool, TRIALS)
    assert dead.running
    dead.membership._say(7)
    heir = begin()
    assert heir.claim() == []  # it may be alive
    search(tmp_path, [heir], FakePool(2), TRIALS)
    assert rows(heir.study) == alone(tmp_path, begin)


def test_of_many_heirs_one_takes_a_trial_over(begin) -> None:
    """Also where the others had seen the trial run before."""
    dead, *heirs = (begin() for _ in range(4))
    dead.membership.beat()
    numbers = [dead.ask(TRIALS) for _ in range(2)]
    for heir in heirs:
        heir.membership.beat()
        heir.refresh()
    dead.membership.leave()
    assert [heir.claim() for heir in heirs] == [numbers, [], []]


def test_one_that_comes_back_from_the_dead_leaves_what_has_ended(tmp_path, begin) -> None:
    heir_pools: list[FakePool] = []

    def asleep(job: TrainJob) -> Iterator[Event]:
        """Amid the first trial, sleep until another supervisor has ended the whole study."""
        for count, event in enumerate(landscape(job)):
            if count == 2 and not heir_pools:
                heir_pools.append(FakePool(2, 1))
                search(tmp_path, [begin()], heir_pools[0], TRIALS)
            yield event

    slow, pool = begin(), FakePool(1, objective=asleep)
    search(tmp_path, [slow], pool, TRIALS)
    assert rows(slow.study) == alone(tmp_path, begin)
    assert len(pool.jobs) == 1
    assert len(heir_pools[0].jobs) == TRIALS
    assert (slow.counted, slow.running) == (TRIALS, [])


def test_one_that_comes_back_gives_way_to_its_heir_and_takes_over_in_turn(tmp_path, begin) -> None:
    """The heir takes the first trial over, and dies as well."""
    heirs: list[Arm] = []

    def asleep(job: TrainJob) -> Iterator[Event]:
        for count, event in enumerate(landscape(job)):
            if count == 2 and not heirs:
                heirs.append(begin())
                heirs[0].membership.is_dead = lambda owner: True  # type: ignore[method-assign]
                heir_pool = FakePool(1)
                heir_pool.fuse = 1
                with suppress(Killed):
                    search(tmp_path, heirs, heir_pool, TRIALS)
                assert heirs[0].owns(0)
                heirs[0].membership._say(9)  # a kill would not have let it leave
            yield event

    slow, pool = begin(), FakePool(1, objective=asleep)
    search(tmp_path, [slow], pool, TRIALS)
    assert rows(slow.study) == alone(tmp_path, begin)
    firsts = [job for job in pool.jobs if isinstance(job, TrainJob) and job.folder.endswith("000")]
    assert len(firsts) == 2  # given up, and taken over again
    assert 1 in pool.stopped


def test_an_outage_makes_nobody_seem_dead(begin) -> None:
    """While a server is away nobody can give a sign of life, and nobody looks for one."""
    alive, other = begin(), begin()
    alive.membership.beat()
    alive.ask(TRIALS)
    assert other.claim() == []
    time.sleep(0.6)  # longer than a silence that means death
    assert other.claim() == []


def test_a_trial_that_ends_while_it_is_taken_over_is_left(begin) -> None:
    slow, heir = begin(), begin()
    slow.membership.beat()
    slow.ask(TRIALS)
    slow.membership.leave()
    refresh = heir.refresh

    def ends_now() -> None:
        refresh()
        slow.tell(0, optuna.trial.TrialState.COMPLETE, 0.5, {})

    heir.refresh = ends_now  # type: ignore[method-assign]
    assert heir.claim() == []


# Owning.

TINY = shlex.split(
    "--train-size 60 --image-size 8 --teacher resnet8-w0.25 --teacher-epochs 1 --epochs 2 "
    "--batch-size 16 --seeds 1 --trials 4 --workers 1"
)


def test_a_second_supervisor_is_told_who_owns_the_study(tmp_path, capsys) -> None:
    layout = Layout(tmp_path)
    with owned(layout.study("digits"), tmp_path / "studies.db"):
        assert main([*TINY, "--root", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    owner = f"process {os.getpid()} on {socket.gethostname()} since 2"
    assert f"study digits is being run by {owner}" in message
    assert message.count("\n") == 1
    with owned(layout.study("digits"), tmp_path / "studies.db"):
        pass  # it was let go


def test_an_owner_that_was_killed_owns_nothing(tmp_path) -> None:
    layout = Layout(tmp_path)
    script = (
        "import os, pathlib, storage.files.layout as l; from storage.files.ownership import owned\n"
        f"layout = l.Layout(pathlib.Path({str(tmp_path)!r}))\n"
        "with owned(layout.study('digits'), layout.root / 'studies.db'): os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list(tmp_path.glob("*.owner"))
    with owned(layout.study("digits"), tmp_path / "studies.db"):
        pass


# Whole studies.


def command(root: Path, *more: str) -> list[str]:
    """Return the command of a tiny study whose supervisors give each other up early."""
    script = (
        "import sys, conductor.search.membership as m, conductor.search.loop as s\n"
        "m.BEAT_SECONDS, m.DEAD_SECONDS, s.LOOK_SECONDS = 0.2, 2.0, 0.2\n"
        "from conductor.command_line.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    return [sys.executable, "-c", script, *changed(TINY, more), "--root", str(root)]


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


def ended(url: str) -> int:
    storage = open_storage(url)
    try:
        studies = storage.get_all_studies()
        trials = [trial for one in studies for trial in storage.get_all_trials(one._study_id)]
        return sum(trial.state.is_finished() for trial in trials)
    finally:
        close_storage(storage)


@pytest.mark.slow
def test_two_studies_on_one_server_of_which_one_is_killed_equal_one_alone(tmp_path, server) -> None:
    alone = subprocess.run(command(tmp_path / "alone"), cwd=ROOT, check=False, capture_output=True)
    assert alone.returncode == 0, alone.stderr
    line = command(tmp_path / "shared", "--storage", server.url)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    killed, other = (subprocess.Popen(line, cwd=ROOT, text=True, **pipes) for _ in range(2))
    while ended(server.url) < 1:
        assert killed.poll() is other.poll() is None, killed.communicate()
        time.sleep(0.05)
    killed.kill()
    killed.communicate()
    said, _ = other.communicate(timeout=300)
    assert other.returncode == 0, said
    wanted = stored(Layout(tmp_path / "alone").studies_url)
    assert stored(server.url) == wanted
    assert [len(trials) for trials in wanted.values()] == [4, 4]
    again = subprocess.run(line, cwd=ROOT, check=False, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert stored(server.url) == wanted


# Many trials.


class InstantPool:
    """Runs up to `size` jobs at once, in any order, each an event a call; keeps no history."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.folders: list[str] = []
        self._random = random.Random(0)
        self._running: dict[int, Iterator[Event]] = {}

    @property
    def busy(self) -> int:
        return len(self._running)

    def start(self) -> None:
        """Nothing to start."""

    def close(self) -> None:
        self._running.clear()

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


@pytest.mark.slow
def test_a_thousand_instant_trials_are_each_run_once(tmp_path, record_property) -> None:
    storage = open_storage(Layout(tmp_path).studies_url)
    arm = make_arm(storage, "plain", lag=8)
    pool, paths = InstantPool(8), study_paths(tmp_path)
    jobs = job_maker(tmp_path)
    began = time.perf_counter()
    run = Search([arm], Crew(pool), paths, quiet(), jobs.trial, lambda arm, number, record: None)
    run.run(1000)
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
