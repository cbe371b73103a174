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

CONNECT_SECONDS = 10.0  # to wait for a cluster's address
STORE_BYTES = 100 * 2**20  # of a local Ray's object store, through which only events pass
PACKAGES = ("kd", "storage", "workers")  # packages of Retort that are sent to the nodes
REASON_LENGTH = 160  # characters of an error of Ray
# Ray reads these at import: no usage reports, no output of its processes (the pool reports
# the death of a worker), no upload of the working directory.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The address of Ray, and the resources of one worker.

    Without an `address` Ray is started on this machine. `gpus_per_trial` lies in (0, 1]; None is a
    whole GPU on a cluster with GPUs, else none. A worker without a GPU takes `threads` CPUs.
    """

    root: Path
    threads: int
    address: str = ""
    gpus_per_trial: float | None = None


def connect(address: str) -> Any:
    """Start Ray here, or connect to the cluster at `address`; return the module `ray`.

    Raises WorkerError, in one line, if that fails.
    """
    os.environ.update(SETTINGS)
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise WorkerError("--workers ray needs Ray: pip install '.[ray]'") from None
    try:
        _check_reachable(address)
        with _own_signals(block=not address):
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **_options(address))
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        how = f"at {address} cannot be reached" if address else "cannot be started"
        raise WorkerError(f"Ray {how}: {reason(error)}") from None
    return ray


def _options(address: str) -> dict[str, Any]:
    """Return the options of `ray.init`, which sends Retort's packages to the nodes."""
    if not address:
        store = {"object_store_memory": STORE_BYTES}
        return {"address": "local", "include_dashboard": False, **store}
    folders = [str(Path(__file__).parents[2] / name) for name in PACKAGES]
    return {"address": address, "runtime_env": {"py_modules": folders}}


def _check_reachable(address: str) -> None:
    """Raise OSError at once if nothing listens at `address`: Ray would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()


@contextmanager
def _own_signals(*, block: bool) -> Iterator[None]:
    """Restore the supervisor's handler of SIGTERM, which Ray replaces by an exit.

    With `block`, the processes that Ray starts in the block ignore interrupts.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SUPERVISED if block else ())
    try:
        yield
    except SystemExit:  # from Ray's handler
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def count_workers(nodes: list[dict[str, Any]], cluster: Cluster) -> tuple[int, dict[str, float]]:
    """Return how many workers fit on the nodes of a cluster, and the resources of each.

    `nodes` is the result of `ray.nodes()`. Raises WorkerError if none fits.
    """
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = sum(int(node.get("GPU", 0)) for node in resources)
    share = cluster.gpus_per_trial or float(gpus > 0)
    if share:  # CPUs are not counted: a worker with a GPU needs few
        size = gpus * int(1 / share + 1e-6)  # no worker has shares of two GPUs
        demand = {"num_gpus": share, "num_cpus": 0}
    else:
        size = sum(int(node.get("CPU", 0)) // cluster.threads for node in resources)
        demand = {"num_cpus": cluster.threads}
    if not size:
        cpus = sum(int(node.get("CPU", 0)) for node in resources)
        what = f"{share:g} GPUs" if share else f"{cluster.threads} threads"
        raise WorkerError(
            f"Ray has no room for a worker of {what}: its nodes have {gpus} GPUs and {cpus} CPUs; "
            "see --gpus-per-trial and --threads"
        )
    return size, demand


def check_node(ray: Any) -> None:
    """Raise WorkerError if Ray has died on the supervisor's machine."""
    own = ray.get_runtime_context().get_node_id()
    if not any(node["NodeID"] == own and node["Alive"] for node in ray.nodes()):
        raise WorkerError(f"Ray has died on this machine; {CONTINUES}")


def reason(error: Exception) -> str:
    """Return the one line of a Ray error that has its reason.

    For a traceback of a worker the last line, for a dead actor its cause, else the first line.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
    if "ray::" in lines[0]:
        lines.reverse()
    cause = "The actor is dead because "
    reasons = [line.removeprefix(cause) for line in lines if line.startswith(cause)]
    return shorten((reasons or lines)[0], REASON_LENGTH, placeholder=" …")
