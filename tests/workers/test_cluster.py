"""How Ray is shared out, and its workers let in, given jobs and replaced; no Ray is started."""

import json
import os
import signal
import socket
import sys
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conductor.command_line.cli import main
from kd.errors import WorkerError
from kd.json_data import to_wire
from tests.support.small import protocol
from workers.events import Failed, Note, Result, Stopped
from workers.jobs import PrepareJob
from workers.pools import on_ray
from workers.pools.cluster import Cluster, check_node, count_workers, reason
from workers.pools.on_ray import RayPool, RayWorker, check_greeting
from workers.pools.worker_pool import make_pool

ROOT = Path(__file__).parents[2]
JOB = PrepareJob(protocol=protocol(), root="runs")


def node(alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"Alive": alive, "NodeID": "this", "Resources": resources}


@pytest.mark.parametrize(
    ("nodes", "threads", "share", "size", "demand"),
    [
        ([node(CPU=5)], 2, None, 2, {"num_cpus": 2}),
        ([node(CPU=3), node(CPU=3)], 2, None, 2, {"num_cpus": 2}),
        ([node(CPU=3), node(alive=False, CPU=8)], 1, None, 3, {"num_cpus": 1}),
        ([node(CPU=1, GPU=4), node(CPU=64)], 2, None, 4, {"num_gpus": 1.0, "num_cpus": 0}),
        ([node(CPU=1, GPU=2)], 1, 0.25, 8, {"num_gpus": 0.25, "num_cpus": 0}),
        ([node(CPU=1, GPU=2)], 1, 0.4, 4, {"num_gpus": 0.4, "num_cpus": 0}),
        ([node(CPU=1, GPU=1)], 1, 0.1, 10, {"num_gpus": 0.1, "num_cpus": 0}),
    ],
)
def test_a_cluster_is_shared_out(nodes, threads, share, size, demand):
    asked = Cluster(root=Path(), threads=threads, gpus_per_trial=share)
    assert count_workers(nodes, asked) == (size, demand)


@pytest.mark.parametrize(
    ("threads", "share", "what"), [(4, None, "of 4 threads"), (1, 0.5, "of 0.5 GPUs")]
)
def test_a_cluster_without_room_is_refused(threads, share, what):
    asked = Cluster(root=Path(), threads=threads, gpus_per_trial=share)
    with pytest.raises(WorkerError, match=f"no room for a worker {what}.* 0 GPUs and 4 CPUs"):
        count_workers([node(CPU=2), node(CPU=2)], asked)


def greeting(**changed: Any) -> dict[str, Any]:
    return json.loads(RayWorker(0).greet(str(ROOT / "pyproject.toml"))) | changed


def test_a_node_that_does_not_see_the_root_is_named(tmp_path):
    check_greeting(greeting(), tmp_path)
    blind = json.loads(RayWorker(0).greet(str(tmp_path / "elsewhere")))
    with pytest.raises(WorkerError, match=f"node {socket.gethostname()} does not see {tmp_path}:"):
        check_greeting(blind, tmp_path)


def test_a_node_with_another_torch_is_named(tmp_path):
    with pytest.raises(WorkerError, match=r"node n7 has torch 2\.0, the supervisor "):
        check_greeting(greeting(node="n7", torch="2.0"), tmp_path)


def test_a_share_of_a_gpu_is_a_share_of_its_memory(monkeypatch, tmp_path):
    limits: list[tuple[torch.device, float]] = []
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr("workers.device.choose_device", lambda slot: gpu)
    monkeypatch.setattr("workers.device.limit_memory", lambda *given: limits.append(given))
    RayWorker(0.25).greet(str(tmp_path / "mark"))
    assert limits == [(gpu, 0.25)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "RuntimeError('')"),
        ("one line", "one line"),
        ("first\n second", "first"),
        ("ray::RayWorker.greet()\n  File x\nModuleNotFoundError: kd", "ModuleNotFoundError: kd"),
        ("It died.\n\tpid: 3\nThe actor is dead because its node is lost.", "its node is lost."),
        ("word " * 100, "word " * 31 + "…"),
    ],
)
def test_the_reason_of_a_ray_error_is_one_line(text, told):
    assert reason(RuntimeError(text)) == told


class FakeRay:
    """Answers for workers from a script: replies, or errors, one a call that is waited for."""

    class exceptions:  # noqa: N801
        class RayError(Exception):
            pass

    def __init__(self, *script: Any) -> None:
        self.script = deque(script)
        self.launched = 0

    def remote(self, kind: type) -> Any:
        self.launched += 1
        return _FakeActor()

    def wait(self, replies: list[Any], **given: Any) -> tuple[list[Any], list[Any]]:
        return replies[-1:], replies[:-1]

    def get(self, reply: Any) -> str:
        answer = self.script.popleft()
        if isinstance(answer, Exception):
            raise answer
        return json.dumps(answer)

    def nodes(self) -> list[dict[str, Any]]:
        return [node(CPU=1)]

    def get_runtime_context(self) -> "FakeRay":
        return self

    def get_node_id(self) -> str:
        return "this"

    def kill(self, actor: Any) -> None:
        pass

    def shutdown(self) -> None:
        pass


class _FakeActor:
    """Takes any option, and any call; a call's reply is a new object."""

    def options(self, **given: Any) -> "_FakeActor":
        assert given["max_restarts"] == given["max_task_retries"] == 0
        return self

    def __getattr__(self, name: str) -> Any:
        return self

    def remote(self, *given: Any) -> Any:
        return _FakeActor()


def test_ray_that_died_on_this_machine_is_reported(monkeypatch):
    nodes = [{"NodeID": "other", "Alive": True}, node(alive=False)]
    monkeypatch.setattr(FakeRay, "nodes", lambda ray: nodes)
    with pytest.raises(WorkerError, match="Ray has died on this machine"):
        check_node(FakeRay())


def scripted(root: Path, monkeypatch: pytest.MonkeyPatch, *script: Any) -> tuple[RayPool, FakeRay]:
    ray = FakeRay(*script)
    monkeypatch.setattr(on_ray, "connect", lambda address: ray)
    pool = make_pool("ray", Cluster(root=root, threads=1))
    assert isinstance(pool, RayPool)
    pool.start()
    return pool, ray


def test_workers_that_cannot_be_started_are_not_replaced_for_ever(tmp_path, monkeypatch):
    error = FakeRay.exceptions.RayError("no torch there")
    pool, ray = scripted(tmp_path, monkeypatch, error, error, error)
    assert pool.events() == pool.events() == []
    with pytest.raises(WorkerError, match="no Ray worker can be started: no torch there"):
        pool.events()
    assert ray.launched == on_ray.STARTS
    pool.close()
    assert list(tmp_path.iterdir()) == []


def test_a_job_waits_until_a_worker_has_greeted(tmp_path, monkeypatch):
    """A worker may be lost before: the job is not, and no death is counted against it."""
    lost = FakeRay.exceptions.RayError("the node is lost")
    said = [[1, to_wire(Result.of(a=1))]]
    pool, ray = scripted(tmp_path, monkeypatch, lost, greeting(), said)
    assert pool.submit(JOB) == 1
    assert pool.events() == pool.events() == []
    assert pool.events() == [(1, Result.of(a=1))]
    assert (ray.launched, pool.busy, pool.size) == (2, 0, 1)


def test_events_of_an_earlier_job_are_ignored(tmp_path, monkeypatch):
    late = [[7, to_wire(Stopped())], [1, to_wire(Note(text="now"))]]
    pool, _ = scripted(tmp_path, monkeypatch, greeting(), late)
    pool.submit(JOB)
    assert pool.events() == []
    assert pool.events() == [(1, Note(text="now"))]
    assert pool.busy == 1


def test_without_ray_one_line_names_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    handler = signal.getsignal(signal.SIGTERM)
    assert main(["--root", str(tmp_path), "--workers", "ray"]) == 2
    signal.signal(signal.SIGTERM, handler)
    assert capsys.readouterr().err == ("study.py: --workers ray needs Ray: pip install '.[ray]'\n")


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, GeneratorExit])
def test_a_worker_states_how_its_job_ends_when_the_job_has_a_bug(error, monkeypatch, tmp_path):
    def run(job, device, stopped):
        yield Note(text="so far")
        raise error("a bug")

    monkeypatch.setattr("workers.runners.preparing.run_prepare", run)
    worker = RayWorker(0)
    worker.greet("")
    worker.run(3, json.dumps(to_wire(replace(JOB, root=str(tmp_path)))))
    events = json.loads(worker.events())
    assert events[0] == [3, to_wire(Note(text="so far"))]
    (log,) = (tmp_path / "logs").iterdir()
    reason = f"{error('a bug')}; the traceback is in {log}"
    assert events[1:] == [[3, to_wire(Failed(kind=error.__name__, reason=reason))]]


def test_a_worker_of_another_version_refuses_the_job():
    worker = RayWorker(0)
    worker.greet("")
    worker.run(3, json.dumps({**to_wire(JOB), "more": 1}))
    [[ticket, event]] = json.loads(worker.events())
    assert (ticket, event["type"], event["kind"]) == (3, "Failed", "ProtocolError")
    assert "'more' of PrepareJob" in event["reason"]
