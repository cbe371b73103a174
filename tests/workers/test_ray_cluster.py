"""A study on a Ray cluster of two nodes, one of which is killed midway, is that of one machine."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from conductor.command_line.cli import main
from tests.support.processes import command, descendants

ROOT = Path(__file__).parents[2]
PATIENCE = 120  # s that a test waits for what should happen soon, on a machine under load
TINY = """
run --trials 4 --lag 2 --image-size 8 --train-size 60 --teacher resnet8-w0.25 --teacher-epochs 1
--student resnet8-w0.125 --epochs 8 --batch-size 16 --seeds 1
"""
VARYING = ["started", "seconds"]  # columns of trials.csv that no two runs share

pytestmark = [pytest.mark.ray, pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head with one CPU, in processes of their own."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    utilities = pytest.importorskip("ray.cluster_utils")
    handler = signal.getsignal(signal.SIGTERM)
    made = utilities.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    yield made
    made.shutdown()
    signal.signal(signal.SIGTERM, handler)


def workers_of(node: Any) -> list[int]:
    """Return the processes of a node that run our workers."""
    (raylet,) = (info.process.pid for info in node.all_processes["raylet"])
    return [pid for pid in descendants(raylet) if "ray::RayWorker" in command(pid)]


def trials(root: Path) -> set[Path]:
    """Return the trials that have a checkpoint, or have had one."""
    folders = root.glob("digits/trials/*/*")
    return {path for path in folders if list(path.glob("checkpoint*")) or list(path.glob("*.json"))}


def wait_for(study: "subprocess.Popen[str]", happens: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happens():
        assert study.poll() is None, study.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_study_survives_a_node_that_is_killed_amid_the_search(
    cluster: Any, tmp_path: Path
) -> None:
    second = cluster.add_node(num_cpus=1)
    there, here = tmp_path / "there", tmp_path / "here"
    where = ["--root", str(there), "--workers", "ray", "--ray-address", cluster.address]
    study = subprocess.Popen(
        [sys.executable, "study.py", *TINY.split(), *where],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(study, lambda: trials(there))
        for pid in workers_of(cluster.head_node):  # the other node has the rest of the search
            os.kill(pid, signal.SIGSTOP)
        begun = trials(there)
        wait_for(study, lambda: trials(there) - begun)
        for pid in workers_of(second):
            os.kill(pid, signal.SIGSTOP)
        for pid in workers_of(cluster.head_node):
            os.kill(pid, signal.SIGCONT)
        time.sleep(2)  # a worker that was between two trials has the next one by now
        cluster.remove_node(second, allow_graceful=False)
        said, error = study.communicate(timeout=PATIENCE)
    finally:
        study.kill()
    assert (study.returncode, error) == (0, ""), said
    assert "died: " in said
    assert "retrying" in said
    assert main([*TINY.split(), "--root", str(here), "--workers", "inline"]) == 0
    tables = [
        pd.read_csv(root / "digits" / "trials.csv").drop(columns=VARYING) for root in (there, here)
    ]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    spent = (tables[0].epochs + tables[0].diverged).groupby(tables[0].arm).sum()
    assert len(spent) == 2
    assert spent.between(4 * 8, 5 * 8 - 1).all(), spent  # four trainings' worth, of 8 epochs each
