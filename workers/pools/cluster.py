"""Connect to Ray, and divide its CPUs and GPUs among workers.

Ray is an optional dependency, and is imported only when a study uses it.
"""

import importlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from kd.errors import WorkerError
from storage.files.artifacts import CONTINUES
from workers.pools.local import SUPERVISED

KNOCK_SECONDS = 10.0  # to wait for the address of a cluster
STORE_BYTES = 100 * 2**20  # of a local Ray's object store, through which only events pass
PACKAGES = ("kd", "storage", "workers")  # what a node of a cluster needs of the project
REASON_LENGTH = 160  # characters of an error of Ray
# What Ray reads when it is imported: it reports no usage, prints no output of its processes (the
# pool reports a worker's death), and sends no working directory to the nodes.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where Ray is, and what a worker takes of it.

    Without an `address` Ray is started on this machine. `gpus_per_trial` lies in (0, 1]; None is a
    whole GPU where there are any, else none. A worker without a GPU takes `threads` CPUs.
    """

    root: Path
    threads: int
    address: str = ""
    gpus_per_trial: float | None = None


def connect(address: str) -> Any:
    """Start Ray here, or connect to the cluster at `address`, quietly; return the module `ray`.

    Raises WorkerError, in one line, when that fails.
    """
    os.environ.update(SETTINGS)
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise WorkerError("--workers ray needs Ray: pip install '.[ray]'") from None
    try:
        _knock(address)
        with _own_signals(block=not address):
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **_options(address))
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        how = f"at {address} cannot be reached" if address else "cannot be started"
        raise WorkerError(f"Ray {how}: {reason(error)}") from None
    return ray


def _options(address: str) -> dict[str, Any]:
    """Return the options of `ray.init`; the nodes of a cluster need not have the project."""
    if not address:
        store = {"object_store_memory": STORE_BYTES}
        return {"address": "local", "include_dashboard": False, **store}
    folders = [str(Path(__file__).parents[2] / name) for name in PACKAGES]
    return {"address": address, "runtime_env": {"py_modules": folders}}


def _knock(address: str) -> None:
    """Raise OSError, at once, where nothing listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), KNOCK_SECONDS).close()


@contextmanager
def _own_signals(*, block: bool) -> Iterator[None]:
    """Keep the supervisor's answer to SIGTERM, which Ray replaces by an exit.

    With `block`, the processes that Ray starts meanwhile inherit that interrupts are blocked.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SUPERVISED if block else ())
    try:
        yield
    except SystemExit:  # Ray's answer
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def share_out(nodes: list[dict[str, Any]], cluster: Cluster) -> tuple[int, dict[str, float]]:
    """Return how many workers the nodes of a cluster have room for, and the resources of each.

    `nodes` are those of `ray.nodes()`. Raises WorkerError when there is room for none.
    """
    rooms = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = sum(int(room.get("GPU", 0)) for room in rooms)
    share = cluster.gpus_per_trial or float(gpus > 0)
    if share:  # CPUs are not counted then: a worker with a GPU needs few
        size = gpus * int(1 / share + 1e-6)  # no worker has pieces of two GPUs
        demand = {"num_gpus": share, "num_cpus": 0}
    else:
        size = sum(int(room.get("CPU", 0)) // cluster.threads for room in rooms)
        demand = {"num_cpus": cluster.threads}
    if not size:
        cpus = sum(int(room.get("CPU", 0)) for room in rooms)
        what = f"{share:g} GPUs" if share else f"{cluster.threads} threads"
        raise WorkerError(
            f"Ray has no room for a worker of {what}: its nodes have {gpus} GPUs and {cpus} CPUs; "
            "see --gpus-per-trial and --threads"
        )
    return size, demand


def check_node(ray: Any) -> None:
    """Raise WorkerError if Ray has died where the supervisor is: no worker can be had then."""
    own = ray.get_runtime_context().get_node_id()
    if not any(node["NodeID"] == own and node["Alive"] for node in ray.nodes()):
        raise WorkerError(f"Ray has died on this machine; {CONTINUES}")


def reason(error: Exception) -> str:
    """Return the line of an error that has the reason; errors of Ray have many lines.

    The last one of a traceback from a worker, the cause of death of an actor, else the first.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
    if "ray::" in lines[0]:
        lines.reverse()
    cause = "The actor is dead because "
    reasons = [line.removeprefix(cause) for line in lines if line.startswith(cause)]
    return shorten((reasons or lines)[0], REASON_LENGTH, placeholder=" …")
