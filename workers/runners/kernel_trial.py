"""A test of the convolution kernels in its own process, because a faulty kernel may crash it.

The job is one line of JSON on standard input; the end of the input ends the process. Every line of
output is a JSON object: `ready`, then `network` with the name of every network and `begun` for
every convolution of it, then `done`, or `wrong` with the reason.
"""

import json
import os
import sys
import threading

import torch

from kd.data.inputs import read_inputs
from kd.models.numerics import place
from kd.training.kernels import WrongKernelError, try_kernels
from storage.files.artifacts import read_manifest
from workers.jobs import KernelsJob, job_from_wire
from workers.runners.loading import build_network

_answers = os.fdopen(os.dup(1), "w")  # what a model of the user's own prints goes elsewhere


def main() -> None:
    """Try the networks of the job that standard input describes."""
    os.dup2(2, 1)
    job = job_from_wire(json.loads(sys.stdin.readline()))
    assert isinstance(job, KernelsJob)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(job.protocol.threads)
    _say("ready", "")
    try:
        for name in (job.protocol.teacher, *job.protocol.students):
            _say("network", name)
            _try_network(job, name)
    except WrongKernelError as error:
        _say("wrong", str(error))
    else:
        _say("done", "")


def _try_network(job: KernelsJob, name: str) -> None:
    """Try one network at the shapes of the study.

    A model of the user's own that fails by itself is passed over: it is tried out by a job of its
    own, which says what is wrong with it.
    """
    protocol = job.protocol
    info = read_manifest(job.layout.dataset(job.dataset), "dataset").info
    try:
        network = build_network(
            protocol, job.layout, job.dataset, name=name, weights="none", seed=0
        )
        place(network, torch.device("cpu"))
        try_kernels(
            network,
            classes=len(info["classes"]),
            inputs=read_inputs(info),
            batch=min(protocol.batch_size, sum(info["counts"]["train"])),
            precision=protocol.precision,
            begun=lambda case: _say("begun", case),
        )
    except (WrongKernelError, MemoryError):
        raise
    except BaseException as error:
        _say("passed over", f"{name}: {type(error).__name__}: {error}")


def _leave_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def _say(what: str, text: str) -> None:
    print(json.dumps({what: text}), file=_answers, flush=True)


if __name__ == "__main__":
    main()
