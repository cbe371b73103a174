"""What every test shares: right kernels, one thread, Ctrl-C, a cache, a fast disk, a study.

Bits on a CPU depend on kernels and threads.

A shell starts what runs in its background with SIGINT ignored, which the supervisors of the tests
would inherit.
"""

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from conductor.command_line.cli import main
from kd.training.kernels import set_known_limit
from tests.support.tiny import FLAGS, hasten, settle

set_known_limit()  # as every worker does
torch.set_num_threads(1)
# What is kept for a user, and not under a root, is kept for this session.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="retort-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of the tiniest study, which has ended; no test may change it, but copies of it."""
    root = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        hasten(patch)
        assert main([*FLAGS.split(), "--root", str(root)]) == 0
    settle(root)
    return root
