"""Workers as processes: they give results, stop when told, and neither die nor live unnoticed."""

import json
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conductor.stages.own_files import keep_own, pin_functions
from kd.errors import WorkerError
from kd.json_data import to_wire
from storage.files.layout import Layout
from tests.support.ground import PATIENCE, Ground, history, run
from tests.support.small import protocol
from workers.events import EpochDone, Event, LastEvent, Note, Result, Stopped
from workers.jobs import ModelsJob, PrepareJob
from workers.machine import usable_cores
from workers.pools.inline import InlinePool
from workers.pools.local import PRELOADED, LocalPool
from workers.pools.worker_pool import WorkerPool

ROOT = Path(__file__).parents[2]
PROTOCOL = protocol()


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    pool = LocalPool(2)
    pool.start()
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground.prepare(tmp_path_factory.mktemp("root"))


def until(pool: LocalPool, ticket: int, *kinds: type[Event]) -> Event:
    """Return the next event of a job that is of one of these kinds, or its last."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for found, event in pool.events(PATIENCE):
            if found == ticket and isinstance(event, (*kinds, LastEvent)):
                return event
    raise AssertionError("the worker says nothing")


def worker_pids() -> set[int]:
    """Return the processes of all workers of this process."""
    children = multiprocessing.active_children()
    return {child.pid for child in children if child.name.startswith("retort-worker-")}


def pid_of(pool: LocalPool, ticket: int) -> int:
    """Return the process that runs a job."""
    return next(worker.process.pid for worker in pool._workers if worker.ticket == ticket)


def test_a_job_in_a_process_gives_the_result_that_it_gives_here(pool, ground, tmp_path):
    job = PrepareJob(protocol=PROTOCOL, root=str(tmp_path))
    result, _ = run(InlinePool(), job)
    assert isinstance(result, Result)
    assert result["dataset"] == ground.dataset
    assert {part: sum(counts) for part, counts in result["counts"].items()}["train"] == 60
    again, _ = run(pool, job)
    assert again == result


def test_training_in_a_process_gives_the_bits_that_it_gives_here(pool, ground):
    here, told_here = run(InlinePool(), ground.trial("here", 2))
    there, told_there = run(pool, ground.trial("there", 2))
    assert here == there == Result.of(test=None)
    assert history(told_here) == history(told_there)
    assert len(told_here) == 2


def test_two_jobs_run_at_once_and_a_third_is_refused(pool, ground):
    tickets = [pool.submit(ground.trial(name)) for name in ("one", "two")]
    assert pool.busy == pool.size == 2
    with pytest.raises(WorkerError, match="all 2 workers are busy"):
        pool.submit(ground.trial("three"))
    heard = set()
    while heard < set(tickets):
        heard |= {ticket for ticket, event in pool.events(PATIENCE) if isinstance(event, EpochDone)}
    for ticket in tickets:
        pool.stop(ticket)
    ended = {}
    while len(ended) < 2:
        for ticket, event in pool.events(PATIENCE):
            if isinstance(event, LastEvent):
                ended[ticket] = type(event)
    assert ended == dict.fromkeys(tickets, Stopped)
    assert pool.busy == 0
    assert len(worker_pids()) == 2


def test_a_stopped_run_continues_from_its_last_full_epoch(pool, ground):
    job = ground.trial("stopped", 4)
    ticket = pool.submit(job)
    assert until(pool, ticket, EpochDone).metrics.epoch == 1
    pool.stop(ticket)
    until(pool, ticket)
    checkpoint = Path(job.folder) / "checkpoint.safetensors"
    assert checkpoint.exists()
    whole, told = run(pool, ground.trial("whole", 4))
    again, told_again = run(pool, job)
    assert again == whole
    assert history(told_again) == history(told)


INTERRUPTING = """
def small(classes, channels):
    raise KeyboardInterrupt
"""


def test_a_job_that_fails_states_its_error_and_the_worker_continues(pool, ground, tmp_path):
    """Among the errors are a bug, and an interrupt that a model raises."""
    run(pool, ground.trial("before a failure", 1))  # starts a worker
    pids = worker_pids()
    (tmp_path / "mine.py").write_text(INTERRUPTING)
    pinned, files = pin_functions({"students": (f"{tmp_path}/mine.py:small",)})
    keep_own(Layout(ground.root), files)
    nowhere = replace(PROTOCOL, dataset=f"folder:{tmp_path / 'nowhere'}")
    root = str(tmp_path)
    for job, kind, reason in (
        (PrepareJob(protocol=nowhere, root=root), "DataError", "existing folder"),
        (replace(ground.trial("bug", 1), views=[]), "ZeroDivisionError", "the traceback is in "),
        (
            ground.job(ModelsJob, protocol=replace(PROTOCOL, **pinned)),
            "ProtocolError",
            "KeyboardInterrupt (mine.py, line 3, in small)",
        ),
    ):
        event, _ = run(pool, job)
        assert event.kind == kind
        assert reason in event.reason
        assert isinstance(run(pool, ground.trial(f"after {kind}", 1))[0], Result)
        assert worker_pids() == pids


def test_a_worker_that_is_killed_is_replaced_and_its_job_failed_once(pool, ground):
    ticket = pool.submit(ground.trial("killed"))
    before, pid = worker_pids(), pid_of(pool, ticket)
    assert isinstance(until(pool, ticket, EpochDone), EpochDone)
    os.kill(pid, signal.SIGKILL)
    event = until(pool, ticket)
    assert event.kind == "WorkerError"
    assert event.reason == f"worker {pid} died with exit code -9"
    assert pool.busy == 0
    after = worker_pids()
    assert len(after) == len(before)
    assert before - after == {pid}
    assert isinstance(run(pool, ground.trial("killed", 2))[0], Result)


def test_a_run_whose_worker_was_killed_ends_as_an_uninterrupted_one(pool, ground):
    """It is tried again from its checkpoint."""
    whole, told = run(pool, ground.trial("not killed", 30))
    workers, heard, notes = WorkerPool(pool), {}, []
    workers.start("run", ground.trial("killed amid", 30))
    while workers.busy:
        for _, event in workers.events(PATIENCE):
            if isinstance(event, EpochDone):
                heard[event.metrics.epoch] = event
                if len(heard) == 2 and not notes:
                    os.kill(pid_of(pool, pool._tickets), signal.SIGKILL)
            elif isinstance(event, Note):
                notes.append(event.text)
    assert event == whole
    assert history(list(heard.values())) == history(told)
    assert len(notes) == 1
    assert notes[0].endswith("died with exit code -9; retrying")


def kill_idle(pool: LocalPool) -> int:
    """Kill the first worker, wait for its end, and return its process."""
    pid = pool._workers[0].process.pid
    with open_pidfd(pid) as died:
        os.kill(pid, signal.SIGKILL)
        assert died(PATIENCE)
    return pid


def test_an_idle_worker_that_is_killed_is_replaced(pool, ground):
    before, pid = worker_pids(), kill_idle(pool)
    assert pool.events(PATIENCE) == []
    after = worker_pids()
    assert len(after) == len(before)
    assert before - after == {pid}
    assert isinstance(run(pool, ground.trial("after idle", 1))[0], Result)


def test_a_job_given_to_a_worker_that_has_just_died_fails_as_one_amid_it(pool, ground):
    kill_idle(pool)
    ticket = pool.submit(ground.trial("given to the dead", 1))
    assert until(pool, ticket).kind == "WorkerError"
    assert isinstance(run(pool, ground.trial("given to the living", 1))[0], Result)


def test_a_stop_that_comes_late_does_not_stop_the_next_job(pool, ground):
    ticket = pool.submit(ground.trial("early", 1))
    worker = next(worker for worker in pool._workers if worker.ticket == ticket)
    assert isinstance(until(pool, ticket), Result)
    late = json.dumps({"stop": ticket}).encode()
    worker.connection.send_bytes(late)  # as if sent before the result was read
    following = pool.submit(ground.trial("late", 3))
    assert worker.ticket == following
    assert isinstance(until(pool, following, EpochDone), EpochDone)
    worker.connection.send_bytes(late)
    assert isinstance(until(pool, following), Result)


def test_a_stop_for_a_job_that_has_ended_is_not_even_sent(pool, ground):
    ticket = pool.submit(ground.trial("ended", 1))
    until(pool, ticket)
    pool.stop(ticket)
    assert isinstance(run(pool, ground.trial("not stopped", 1))[0], Result)


def test_signals_of_a_terminal_do_not_reach_workers(pool, ground):
    """Ctrl-C goes to the whole group; what happens then is the supervisor's decision."""
    ticket = pool.submit(ground.trial("interrupted"))
    assert isinstance(until(pool, ticket, EpochDone), EpochDone)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid_of(pool, ticket), number)
        assert isinstance(until(pool, ticket, EpochDone), EpochDone)
    pool.stop(ticket)
    assert isinstance(until(pool, ticket), Stopped)


class open_pidfd:  # noqa: N801
    """Watch a process, whoever's child it is: the block is given a function that waits for its end.

    A process of another parent that nobody waits for stays in the table; this sees that it ended.
    """

    def __init__(self, pid: int) -> None:
        self._descriptor = os.pidfd_open(pid)

    def __enter__(self) -> Any:
        return lambda seconds: bool(select.select([self._descriptor], [], [], seconds)[0])

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


SUPERVISOR = """
import json, multiprocessing, sys
from tests.support.ground import FOREVER, HINT, PATIENCE, Ground, history, run
from tests.support.small import protocol
from workers.events import EpochDone
from workers.jobs import job_from_wire
from workers.pools.local import LocalPool

if __name__ == "__main__":
    pool = LocalPool(2)
    pool.start()
    for wire in sys.argv[1:]:
        pool.submit(job_from_wire(json.loads(wire)))
    heard = set()
    while len(heard) < len(sys.argv) - 1:
        heard |= {ticket for ticket, event in pool.events() if isinstance(event, EpochDone)}
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    while True:
        pool.events()
"""


def test_workers_leave_when_their_supervisor_is_killed(ground, tmp_path):
    script = tmp_path / "supervisor.py"
    script.write_text(SUPERVISOR)
    jobs = [json.dumps(to_wire(ground.trial(f"orphan {n}"))) for n in range(2)]
    with subprocess.Popen(
        [sys.executable, script, *jobs],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as supervisor:
        pids = [int(pid) for pid in supervisor.stdout.readline().split()]
        assert len(pids) == 2
        with open_pidfd(pids[0]) as one, open_pidfd(pids[1]) as other:
            assert not one(0)
            assert not other(0)
            supervisor.kill()
            assert one(PATIENCE)
            assert other(PATIENCE)


IMPORTING = """
import sys
sys.path.insert(0, sys.argv[1])
from workers.pools import local

if __name__ == "__main__":
    local.PRELOADED.append("beside")
    pool = local.LocalPool()
    pool.start()
    assert pool.size  # its worker has been forked
    pool.close()
"""


def test_the_fork_server_imports_from_where_its_supervisor_does(tmp_path):
    """Else a clone would run with the workers of another Retort that is installed."""
    (tmp_path / "script.py").write_text(IMPORTING)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "beside.py").write_text("open(__file__ + '.imported', 'w').close()\n")
    subprocess.run(
        [sys.executable, tmp_path / "script.py", folder],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert (folder / "beside.py.imported").exists()


SHOWING_PROGRESS = """
from torch import nn
from tqdm import tqdm

def small(classes, channels):
    tqdm(disable=True)  # as torch.compile does
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))
"""

CLOSING = """
import json, sys
from tests.support.ground import run
from workers.jobs import job_from_wire
from workers.pools.local import LocalPool

if __name__ == "__main__":
    pool = LocalPool(1)
    pool.start()
    print(run(pool, job_from_wire(json.loads(sys.argv[1])))[0].reason)
    pool.close()
"""


def test_a_worker_leaves_no_semaphore_behind_of_which_python_would_warn(ground, tmp_path):
    (tmp_path / "mine.py").write_text(SHOWING_PROGRESS)
    (tmp_path / "closing.py").write_text(CLOSING)
    pinned, files = pin_functions({"students": (f"{tmp_path}/mine.py:small",)})
    keep_own(Layout(ground.root), files)
    job = ground.job(ModelsJob, protocol=replace(PROTOCOL, **pinned))
    done = subprocess.run(
        [sys.executable, tmp_path / "closing.py", json.dumps(to_wire(job))],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "has the lazy layer" in done.stdout  # so the function has run
    assert done.stderr == ""


def leave(*arguments: object) -> None:
    """The life of a worker that cannot start."""
    os._exit(3)


@pytest.mark.parametrize("size", [1, None])
def test_workers_that_cannot_start_are_an_error_and_not_replaced_for_ever(
    ground, monkeypatch, size
):
    monkeypatch.setattr("workers.pools.local.serve", leave)
    pool = LocalPool(size)
    pool.start()
    with pytest.raises(WorkerError, match=r"worker \d+ died"):
        (pool.submit(ground.trial("never", 1)), pool.events(PATIENCE), pool.events(PATIENCE))
    pool.close()


def test_closing_a_pool_ends_its_workers_even_busy_ones(ground):
    pool = LocalPool(1)
    pool.start()
    ticket = pool.submit(ground.trial("busy"))
    before = worker_pids()
    assert isinstance(until(pool, ticket, EpochDone), EpochDone)
    pool.close()
    assert len(worker_pids()) == len(before) - 1
    assert pool.busy == 0


def test_a_pool_of_no_given_size_has_one_worker_a_core_or_accelerator(ground):
    import torch

    pool = LocalPool()
    pool.start()
    try:
        accelerators = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
        assert pool.size == (accelerators or usable_cores())
        assert isinstance(run(pool, ground.trial("sized", 1))[0], Result)
    finally:
        pool.close()


def test_the_inline_worker_takes_one_job_at_a_time(ground):
    pool = InlinePool()
    assert (pool.size, pool.busy, pool.events()) == (1, 0, [])
    ticket = pool.submit(ground.trial("inline"))
    assert pool.busy == 1
    with pytest.raises(WorkerError, match="busy"):
        pool.submit(ground.trial("another"))
    assert [type(event) for _, event in pool.events()] == [EpochDone]
    pool.stop(ticket - 1)
    assert [type(event) for _, event in pool.events()] == [EpochDone]
    pool.stop(ticket)
    assert pool.events() == [(ticket, Stopped())]
    assert (pool.busy, pool.events()) == (0, [])


def test_an_interrupt_amid_a_step_stops_the_job_of_the_inline_worker(ground):
    pool = InlinePool()
    ticket = pool.submit(ground.trial("interrupted inline"))
    pool.events()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workers.runners.training.write_checkpoint", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            pool.events()
    assert pool.events() == [(ticket, Stopped())]
    assert pool.busy == 0


def _interrupt(*arguments):
    raise KeyboardInterrupt


def test_closing_the_inline_worker_drops_its_job(ground):
    pool = InlinePool()
    pool.submit(ground.trial("dropped"))
    pool.events()
    pool.close()
    assert (pool.busy, pool.events()) == (0, [])


def test_what_the_fork_server_imports_is_frozen_last_so_that_workers_share_it():
    assert PRELOADED[-1] == "workers.pools.frozen"
    script = "import gc, kd.protocol; import workers.pools.frozen; print(gc.get_freeze_count())"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert int(printed.stdout) > 1000
