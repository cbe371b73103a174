"""Workers on Ray: the bits of local ones, stopped when told, and never dead unnoticed."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

from conductor.command_line.cli import main
from kd.errors import WorkerError
from storage.files.layout import RunLayout
from tests.support.ground import PATIENCE, Ground, history, run
from tests.support.processes import command, descendants
from tests.support.small import protocol
from workers.events import EpochDone, Event, Failed, LastEvent, Result, Stopped
from workers.jobs import PrepareJob
from workers.pools.cluster import Cluster, connect
from workers.pools.inline import InlinePool
from workers.pools.on_ray import RayPool

ROOT = Path(__file__).parents[2]
TINY = """
run --trials 2 --lag 2 --image-size 8 --train-size 60 --teacher resnet8-w0.25 --teacher-epochs 1
--student resnet8-w0.125 --epochs 2 --batch-size 16 --seeds 1
"""
VARYING = ["started", "seconds"]  # columns of trials.csv that no two runs share

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed"),
]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")


def first_epoch(pool: RayPool, ticket: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if any(isinstance(event, EpochDone) for found, event in pool.events() if found == ticket):
            return
    raise AssertionError("the worker says nothing")


def last_events(pool: RayPool, count: int) -> dict[int, Event]:
    """Return the last events of the next `count` jobs that end."""
    ends: dict[int, Event] = {}
    while len(ends) < count:
        for ticket, event in pool.events():
            if isinstance(event, LastEvent):
                assert ticket not in ends
                ends[ticket] = event
    return ends


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return replace(Ground.prepare(tmp_path_factory.mktemp("root")), cache="none")


@pytest.fixture(scope="module")
def pool(ground: Ground) -> Iterator[RayPool]:
    handler = signal.getsignal(signal.SIGTERM)
    pool = RayPool(Cluster(root=ground.root, threads=1))
    pool.start()
    assert signal.getsignal(signal.SIGTERM) == handler
    yield pool
    pool.close()


def bits(run: RunLayout) -> bytes:
    """The state of a run after its last epoch, without what depends on the clock."""
    with run.checkpoint.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
        return file.read()[header:]


def test_a_job_gives_the_result_of_a_local_one(pool: RayPool, ground: Ground) -> None:
    there, _ = run(pool, ground.job(PrepareJob))
    here, _ = run(InlinePool(), ground.job(PrepareJob))
    assert there == here
    assert there["dataset"] == ground.dataset


def test_training_has_the_bits_of_a_local_worker(pool: RayPool, ground: Ground) -> None:
    there, here = ground.trial("there", 3), ground.trial("here", 3)
    ended, told = run(pool, there)
    expected, heard = run(InlinePool(), here)
    assert ended == expected == Result.of(test=None)
    assert history(told) == history(heard)
    assert len(told) == 3
    assert bits(RunLayout(Path(there.folder))) == bits(RunLayout(Path(here.folder)))


def test_a_job_stops_on_request(pool: RayPool, ground: Ground) -> None:
    ticket = pool.submit(ground.trial("stopped"))
    first_epoch(pool, ticket)
    pool.stop(ticket)
    assert last_events(pool, 1) == {ticket: Stopped()}
    assert pool.busy == 0


def test_a_job_that_waits_for_a_worker_stops_on_request(pool: RayPool, ground: Ground) -> None:
    running = [pool.submit(ground.trial(f"running {n}")) for n in range(pool.size)]
    waiting = pool.submit(ground.trial("waiting"))
    assert pool.busy == pool.size + 1
    pool.stop(waiting)
    assert pool.events() == [(waiting, Stopped())]
    for ticket in running:
        pool.stop(ticket)
    ends = last_events(pool, pool.size)
    assert ends == dict.fromkeys(running, Stopped())


def test_a_killed_worker_fails_its_job_and_another_takes_its_place(
    pool: RayPool, ground: Ground
) -> None:
    ticket = pool.submit(ground.trial("killed"))
    first_epoch(pool, ticket)
    [victim] = [worker for worker in pool._workers if worker.ticket == ticket]
    pid = int(re.findall(r"Ray worker (\d+) on", victim.name)[0])
    os.kill(pid, signal.SIGKILL)
    [(found, event)] = last_events(pool, 1).items()
    assert (found, event.kind) == (ticket, "WorkerError")
    assert event.reason.startswith(f"Ray worker {pid} on {socket.gethostname()} died: ")
    assert "\n" not in event.reason
    ended, told = run(pool, ground.trial("after", 1))
    assert isinstance(ended, Result)
    assert len(told) == 1


def test_a_path_is_that_of_the_supervisor_wherever_a_worker_is(
    pool: RayPool, ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = PrepareJob(protocol=protocol(), root="elsewhere")
    assert isinstance(run(pool, job)[0], Result)
    assert (tmp_path / "elsewhere" / "cache").is_dir()


def test_a_bug_fails_its_job_and_not_the_worker(pool: RayPool, ground: Ground) -> None:
    broken = replace(ground.trial("broken", 2), views=[])
    workers = [worker.name for worker in pool._workers]
    assert isinstance(run(pool, broken)[0], Failed)
    assert [worker.name for worker in pool._workers] == workers


@on_linux
def test_signals_to_the_whole_group_reach_the_supervisor_alone(pool: RayPool) -> None:
    """Slurm signals every process; the epochs at hand are kept if Ray and its workers go on."""
    wanted = 1 << (signal.SIGINT - 1) | 1 << (signal.SIGTERM - 1)
    of_ray = [pid for pid in descendants(os.getpid()) if "raylet" in command(pid)]
    workers = [pid for pid in descendants(os.getpid()) if "ray::RayWorker" in command(pid)]
    assert of_ray
    assert workers
    for pid in of_ray + workers:
        status = Path(f"/proc/{pid}/status").read_text()
        blocked = int(re.findall(r"^SigBlk:\s*(\w+)$", status, re.MULTILINE)[0], 16)
        assert blocked & wanted == wanted
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


def test_nothing_is_left_in_the_root(pool: RayPool, ground: Ground) -> None:
    run(pool, ground.job(PrepareJob))
    waiting = {worker.mark for worker in pool._workers if not worker.ready}
    assert set(ground.root.glob(".ray-*")) <= waiting


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """A study on Ray whose supervisor was killed amid the search: its root, and its workers."""
    root = tmp_path_factory.mktemp("killed")
    supervisor = subprocess.Popen(
        [sys.executable, "study.py", *TINY.split(), "--root", str(root), "--workers", "ray"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + PATIENCE
    try:
        while not list(root.glob("*/trials/*/*/*.json")):
            assert supervisor.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        workers = [pid for pid in descendants(supervisor.pid) if "ray::RayWorker" in command(pid)]
    finally:
        supervisor.kill()
        supervisor.wait()
    return root, workers


@on_linux
def test_workers_leave_with_their_supervisor(killed: tuple[Path, list[int]]) -> None:
    _, workers = killed
    assert workers
    deadline = time.monotonic() + PATIENCE
    while any(map(command, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_study_continues_and_is_that_of_a_local_worker(
    killed: tuple[Path, list[int]], tmp_path: Path
) -> None:
    """It is also quiet: nothing that Ray says reaches the terminal."""
    root, _ = killed
    done = subprocess.run(
        [sys.executable, "study.py", *TINY.split(), "--root", str(root), "--workers", "ray"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert re.findall(r"(?i)\bray\b|raylet|actor", done.stdout.replace(str(root), "")) == []
    handler = signal.getsignal(signal.SIGTERM)
    assert main([*TINY.split(), "--root", str(tmp_path), "--workers", "inline"]) == 0
    signal.signal(signal.SIGTERM, handler)
    there = pd.read_csv(root / "digits" / "trials.csv").drop(columns=VARYING)
    here = pd.read_csv(tmp_path / "digits" / "trials.csv").drop(columns=VARYING)
    pd.testing.assert_frame_equal(there, here, check_exact=True)
    assert len(here) == 4


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nothing_listens_fails_at_once(scheme):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening
        address = f"{scheme}127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(WorkerError, match=f"Ray at {address} cannot be reached: .*refused"):
            connect(address)
