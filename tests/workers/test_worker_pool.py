"""Jobs are given to workers, tried again when a worker died, and checked upon in between."""

import pytest

from kd.errors import (
    ArtifactError,
    DataError,
    DivergenceError,
    ProtocolError,
    StudyError,
    WorkerError,
)
from tests.support.fakes import FakePool, diverged, epochs, failed, protocol, trained
from workers.events import Diverged, Event, Failed, Note, Progress, Result, Stopped
from workers.jobs import CostJob
from workers.pools.inline import InlinePool
from workers.pools.local import LocalPool
from workers.pools.worker_pool import RETRIES, WorkerPool, error_of, make_pool


class AnyJobPool(FakePool):
    """Runs scripts: the events of the first job, of the second, …"""

    def __init__(self, *scripts: list[Event], size: int = 1, seed: int = 0) -> None:
        super().__init__(size, seed)
        self.scripts = list(scripts)

    def _run(self, ticket, job):
        return iter(self.scripts.pop(0))


DIED = failed("WorkerError", "worker 7 died with exit code -9")


def job(name: str = "d") -> CostJob:
    return CostJob(protocol=protocol(), root="runs", dataset=name, teachers=("t",))


def begun(pool: AnyJobPool, keys: str = "a") -> WorkerPool:
    """Start a job under each key."""
    workers = WorkerPool(pool)
    for key in keys:
        workers.start(key, job())
    return workers


def told(workers: WorkerPool) -> list[tuple[str, Event]]:
    """Return all that the jobs report."""
    found = []
    while workers.busy:
        found += workers.events()
    return found


def test_events_come_under_the_keys_of_their_jobs():
    workers = begun(AnyJobPool(trained([0.1]), trained([0.2, 0.3]), size=2), "ab")
    assert workers.free == 0
    found = told(workers)
    for key, accuracies in (("a", [0.1]), ("b", [0.2, 0.3])):
        events = [event for told_key, event in found if told_key == key]
        assert events == trained(accuracies)
    assert workers.free == 2


@pytest.mark.parametrize("deaths", range(RETRIES + 1))
def test_a_job_whose_worker_died_is_tried_again(deaths):
    pool = AnyJobPool(*deaths * [[*epochs([0.1]), *DIED]], trained([0.1, 0.2]))
    found = [event for _, event in told(begun(pool))]
    assert pool.jobs == (deaths + 1) * [job()]
    notes = [event.text for event in found if isinstance(event, Note)]
    assert notes == deaths * ["worker 7 died with exit code -9; retrying"]
    assert found[-1] == trained([])[-1]
    assert not any(isinstance(event, Failed) for event in found)


def test_a_job_whose_workers_die_thrice_has_failed():
    assert RETRIES == 2
    pool = AnyJobPool(DIED, DIED, DIED, trained([0.1]))
    found = told(begun(pool))
    assert [type(event) for _, event in found] == [Note, Note, Failed]
    assert found[-1] == ("a", DIED[0])
    assert len(pool.jobs) == 3


def test_deaths_are_counted_by_job():
    pool = AnyJobPool(DIED, DIED, trained([]), DIED, DIED, trained([]))
    workers = WorkerPool(pool)
    for key in "ab":
        workers.start(key, job())
        assert told(workers)[-1] == (key, trained([])[-1])


def test_a_job_that_was_to_stop_is_not_retried():
    """Its worker died before it could say so; what it would train now is of no use."""
    pool = AnyJobPool([*epochs([0.1]), *DIED], trained([0.1, 0.2]))
    workers = begun(pool)
    workers.stop("a")
    assert told(workers)[-1] == ("a", Stopped())
    assert len(pool.jobs) == 1


def test_stop_is_for_the_job_of_that_key():
    pool = AnyJobPool(trained([]), trained([]), size=2)
    workers = begun(pool, "ab")
    workers.stop("b")
    workers.stop("c")
    assert pool.stopped == {2}


def test_a_retry_is_stopped_under_its_new_ticket():
    pool = AnyJobPool(DIED, trained([0.1]))
    workers = begun(pool)
    workers.events()
    workers.stop("a")
    assert pool.stopped == {2}


@pytest.mark.parametrize("kind", [ProtocolError, DataError, ArtifactError, DivergenceError])
def test_run_raises_the_class_that_the_failed_event_names(kind):
    pool = AnyJobPool(failed(kind.__name__, "the reason"), trained([]))
    with pytest.raises(kind, match="the reason"):
        WorkerPool(pool).run(job(), lambda event: None)
    assert len(pool.jobs) == 1  # it is not tried again


@pytest.mark.parametrize("kind", ["OSError", "KeyError", "Exception", "__name__"])
def test_an_error_of_another_kind_is_a_workers_error_with_its_kind_and_reason(kind):
    error = error_of(failed(kind, "disk full")[0])
    assert type(error) is WorkerError
    assert str(error) == f"a job failed: {kind} disk full"


def test_run_returns_the_result_and_tells_the_rest():
    heard = []
    pool = AnyJobPool([*epochs([0.5]), Result.of(dataset="abc")])
    assert WorkerPool(pool).run(job(), heard.append)["dataset"] == "abc"
    assert heard == epochs([0.5])


def test_run_all_keeps_every_worker_busy_and_yields_each_result():
    pool = AnyJobPool(*[[*epochs([0.1]), Result.of(n=n)] for n in range(7)], size=3)
    busy, heard = [], []
    pool.on_submit = lambda job: busy.append(pool.busy)
    workers = WorkerPool(pool)
    jobs = {f"job {n}": job(str(n)) for n in range(7)}
    results = dict(workers.run_all(jobs, lambda key, event: heard.append(key)))
    assert {key: event["n"] for key, event in results.items()} == {f"job {n}": n for n in range(7)}
    assert sorted(heard) == sorted(jobs)
    assert busy == [0, 1, 2, 2, 2, 2, 2]


def test_run_raises_the_divergence_of_a_job_that_must_have_a_result():
    with pytest.raises(DivergenceError, match="the loss is not finite"):
        WorkerPool(AnyJobPool(diverged([0.1]))).run(job(), lambda event: None)


def test_run_all_yields_divergence_as_a_result():
    pool = AnyJobPool(diverged([0.1]))
    results = WorkerPool(pool).run_all({"a": job()}, lambda *_: None)
    assert [type(event) for _, event in results] == [Diverged]


def test_run_all_raises_the_error_of_a_job_that_failed():
    pool = AnyJobPool(trained([]), failed("ArtifactError", "damaged"), trained([]))
    jobs = {n: job() for n in range(3)}
    with pytest.raises(ArtifactError, match="damaged"):
        list(WorkerPool(pool).run_all(jobs, lambda *_: None))
    assert len(pool.jobs) == 2


@pytest.mark.parametrize("order", range(5))
def test_drain_waits_for_an_epoch_or_the_end_of_every_job(order):
    long = [*5 * [Progress(done=1, total=2)], *trained(30 * [0.1])]
    pool = AnyJobPool(long, [Note(text=""), *failed()], long, size=3, seed=order)
    begun(pool, "abc").drain(60)
    left = {ticket: len(list(events)) for ticket, events in pool._running.items()}
    assert set(left) == {1, 3}
    assert all(1 <= rest <= 30 for rest in left.values())


def test_drain_gives_up_when_its_time_is_over():
    pool = AnyJobPool(trained([0.1]))
    begun(pool).drain(0)
    assert pool.busy == 1


def test_make_pool_makes_what_workers_names():
    assert isinstance(make_pool("inline"), InlinePool)
    assert make_pool("inline").size == 1
    pool = make_pool("3")
    assert isinstance(pool, LocalPool)
    assert pool.size == 3
    assert isinstance(make_pool("auto"), LocalPool)


@pytest.mark.parametrize("seconds", [0.0, 100.0])
def test_a_study_that_is_lost_is_noticed_before_anything_is_made_of_an_event(monkeypatch, seconds):
    """Also after a long sleep amid a wait: what was said meanwhile is not passed on."""
    monkeypatch.setattr("workers.pools.worker_pool.CHECK_SECONDS", seconds)
    calls: list[str] = []

    def check() -> None:
        calls.append("check")
        raise StudyError("lost")

    workers = begun(AnyJobPool(trained([0.1])))
    workers.check = check
    if seconds:
        assert told(workers)[-1] == ("a", trained([])[-1])  # it is not due
        assert calls == []
    else:
        with pytest.raises(StudyError, match="lost"):
            workers.events()
        assert calls == ["check"]
