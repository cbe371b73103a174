"""Cores and memory are what a process may use, not what the machine has."""

import os
from pathlib import Path

import pytest

from workers import machine
from workers.machine import installed_memory, usable_cores, usable_memory

VERSION_2 = "0::/pod/job\n"
VERSION_1 = "3:memory:/pod/job\n2:cpu,cpuacct:/pod/job\n1:name=systemd:/pod/job\n0::/\n"


@pytest.fixture
def groups(tmp_path, monkeypatch) -> Path:
    """An empty tree of cgroups; the process may use 64 cores of a machine with 8 GB."""
    monkeypatch.setattr(machine, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(machine, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(machine, "installed_memory", lambda: 8_000_000_000)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    return tmp_path / "groups"


def limit(groups: Path, name: str, text: str) -> None:
    path = groups / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def belong(groups: Path, text: str) -> None:
    (groups.parent / "own").write_text(text)


ALL = (64, 8_000_000_000)  # of the machine
SOME = (3, 1_000_000)  # 2.5 cores, rounded up


def test_without_cgroups_all_of_the_machine_may_be_used(groups):
    assert (usable_cores(), usable_memory()) == ALL


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        (VERSION_2, {"pod/job/cpu.max": "max 100000", "pod/job/memory.max": "max"}, ALL),
        (
            VERSION_1,
            {
                "cpu/pod/job/cpu.cfs_quota_us": "-1",
                "cpu/pod/job/cpu.cfs_period_us": "100000",
                "memory/pod/job/memory.limit_in_bytes": "9223372036854771712",
            },
            ALL,
        ),
        (VERSION_2, {"pod/job/cpu.max": "250000 100000", "pod/job/memory.max": "1000000"}, SOME),
        (VERSION_2, {"pod/cpu.max": "250000 100000", "pod/memory.max": "1000000"}, SOME),
        (VERSION_2, {"cpu.max": "250000 100000", "memory.max": "1000000"}, SOME),
        (
            VERSION_1,
            {
                "cpu/pod/job/cpu.cfs_quota_us": "250000",
                "cpu/pod/job/cpu.cfs_period_us": "100000",
                "memory/pod/memory.limit_in_bytes": "1000000",
            },
            SOME,
        ),
    ],
    ids=["no limit", "no limit, 1", "own group", "group above", "of a container", "version 1"],
)
def test_the_limit_of_a_cgroup_counts_wherever_it_is_set(groups, own, files, expected):
    belong(groups, own)
    for name, text in files.items():
        limit(groups, name, text)
    assert (usable_cores(), usable_memory()) == expected


def test_a_group_elsewhere_in_the_tree_does_not_count(groups):
    belong(groups, VERSION_2)
    limit(groups, "other/cpu.max", "100000 100000")
    assert usable_cores() == 64


def test_affinity_counts_where_the_quota_is_larger(groups, monkeypatch):
    belong(groups, VERSION_2)
    limit(groups, "pod/job/cpu.max", "800000 100000")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 5})
    assert usable_cores() == 2


def test_a_quota_below_one_core_leaves_one(groups):
    belong(groups, VERSION_2)
    limit(groups, "cpu.max", "10000 100000")
    assert usable_cores() == 1


def test_this_machine_has_cores_and_memory():
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    assert 0 < usable_memory() <= installed_memory()
