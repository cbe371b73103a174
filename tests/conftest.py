"""What every test shares: one thread, since bits on a CPU depend on their number, Ctrl-C, a study.

A shell starts what runs in its background with SIGINT ignored, which the supervisors of the tests
would inherit.
"""

import signal
from pathlib import Path

import pytest
import torch

from conductor.cli import main
from tests.tiny import FLAGS, hasten, settle

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of the tiniest study, which has ended; no test may change it, but copies of it."""
    root = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        hasten(patch)
        assert main([*FLAGS.split(), "--root", str(root)]) == 0
    settle(root)
    return root
