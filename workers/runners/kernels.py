"""Find the convolution kernels that are correct on this CPU, and limit workers to them.

A trial runs in a process of its own (`workers.runners.kernel_trial`), under glibc's checks of the
heap: a kernel that writes past its memory is detected when that memory is freed, and memory that
was never written is read as huge numbers. The result is kept by processor, versions and the shapes
that the study computes.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kd.errors import ArtifactError, ProtocolError, StudyError
from kd.json_data import to_wire
from kd.names import parse_model
from kd.training import kernels
from storage.files.artifacts import fingerprint, locked
from storage.files.layout import kernels_record, lock_of
from storage.files.records import Record
from workers.events import Event, Result, ShouldStop
from workers.jobs import Job, KernelsJob
from workers.machine import processor

# glibc fills what is allocated with 0x7f bytes (3.4e38 as float32), and checks blocks when they
# are freed; its newer releases keep that check in a library of its own.
HEAP_CHECKS = {"MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "128"}
CHECKING_LIBRARY = "libc_malloc_debug.so.0"
TRIAL = "workers.runners.kernel_trial"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels(Record):
    """What workers may compute with: at most `limit`, empty for all there is, and why not more."""

    limit: str
    reason: str


_STARTED_WITH = kernels.limit()  # what the user has limited the process to, before any trial
_settled: dict[str, str] = {}  # of this process: the study's fingerprint, its limit


def run_kernels(job: KernelsJob, device: torch.device, stopped: ShouldStop) -> Iterator[Event]:
    """Report what the kernels are limited to; every job begins with `limit_kernels`."""
    if device.type != "cpu":
        yield Result.of(limit="", reason="", used="")
        return
    found = _find(job)
    yield Result.of(limit=found.limit, reason=found.reason, used=kernels_used())


def kernels_used() -> str:
    """Describe what this process computes convolutions with, as `oneDNN 3.12.0, at most AVX`."""
    limit, version = kernels.limit(), kernels.onednn_version()
    return f"oneDNN {version or 'none'}" + (f", at most {limit}" if limit else "")


def limit_kernels(job: Job, device: torch.device) -> None:
    """Have this process compute the job with kernels that were found to be right, on a CPU.

    Jobs without a data set compute nothing. Raises StudyError when no kernels are right, or the
    process has computed with wrong ones before.
    """
    dataset = getattr(job, "dataset", "")
    if device.type != "cpu" or not dataset:
        return
    trial = KernelsJob(protocol=job.protocol, root=job.root, dataset=dataset)
    key = fingerprint(_identity(trial))
    if key in _settled:
        return
    limit = _find(trial).limit
    if _settled and limit != kernels.limit():
        raise StudyError(
            f"this process has computed with {kernels_used()}, and this study needs "
            f"{kernels.VARIABLE}={limit}; run the command again, in a process of its own"
        )
    if limit:
        os.environ[kernels.VARIABLE] = limit
    _settled[key] = limit


def _identity(job: KernelsJob) -> dict[str, Any]:
    """Return what the choice of kernels, and whether they are right, depends on."""
    protocol = job.protocol
    return {
        "processor": processor(),
        "torch": torch.__version__,
        "given": _STARTED_WITH,
        "dataset": job.dataset,
        "models": [protocol.teacher, *protocol.students],
        "stem": protocol.stem,
        "image_size": protocol.image_size,
        "batch_size": protocol.batch_size,
        "threads": protocol.threads,
        "precision": protocol.precision,
    }


def _find(job: KernelsJob) -> Kernels:
    """Return what is kept about the kernels of this study, or try them and keep what is found."""
    if kernels.known_limit() and kernels.limit() == kernels.known_limit():
        reason = f"AVX2 kernels of oneDNN {kernels.onednn_version()} are known to be wrong"
        return Kernels(limit=kernels.limit(), reason=reason)
    path = kernels_record(fingerprint(_identity(job)))
    try:
        with locked(lock_of(path), wait=True):
            if not path.exists():
                _try(job).write(path)
            return Kernels.read(path)
    except ArtifactError:  # nowhere to keep it, or it is damaged: every process finds out
        return _try(job)


def _try(job: KernelsJob) -> Kernels:
    """Try the kernels that the process was given, and narrower ones as long as they are wrong.

    Raises StudyError when none are right; ProtocolError when a model of the user's own ended every
    trial: then it is its code that does, not the kernels.
    """
    reason, crashed = "", set()
    for instruction_set in (_STARTED_WITH, *kernels.narrower(_STARTED_WITH)):
        wrong, network = _run_trial(job, instruction_set)
        if not wrong:
            return Kernels(limit=instruction_set, reason=reason)
        reason = reason or wrong
        crashed.add(network)
    (name, *others) = crashed
    if not others and name and parse_model(name).digest:
        raise ProtocolError(
            f"{parse_model(name).base} ends the process that tries it, whatever the instruction "
            f"set: {reason}; correct what ends it there (os.abort, os._exit, code in C), and run "
            "the same line again"
        )
    raise StudyError(
        f"convolutions come out wrong on this processor, whatever its instruction set: {reason}; "
        "train on a GPU, or with another version of torch"
    )


def _run_trial(job: KernelsJob, instruction_set: str) -> tuple[str, str]:
    """Run one trial; return what went wrong, if anything did, and the network that crashed."""
    messages, code = _exchange(job, instruction_set, HEAP_CHECKS)
    if "ready" not in messages:  # the checks do not fit this system
        messages, code = _exchange(job, instruction_set, {})
    if "wrong" in messages:
        return messages["wrong"], ""
    if "done" in messages and code == 0:
        return "", ""
    network = messages.get("network", "")
    own = bool(network and parse_model(network).digest)
    if "ready" not in messages or code == -signal.SIGKILL or (code == 1 and not own):
        raise StudyError(
            f"the trial of convolution kernels ended with exit code {code}"
            f"{' (out of memory?)' if code == -signal.SIGKILL else ''}; "
            "run: python study.py doctor"
        )
    case = messages.get("begun", "what precedes the first convolution")
    return f"{case} crashes with exit code {code}", network


def _exchange(
    job: KernelsJob, instruction_set: str, checks: dict[str, str]
) -> tuple[dict[str, str], int]:
    """Run the trial's process; return the last message of each kind, and its exit code.

    Its input stays open until it ends: it leaves when this process does.
    """
    environment = {**os.environ, **checks, "PYTHONPATH": _import_path()}
    environment.pop(kernels.VARIABLE, None)
    if instruction_set:
        environment[kernels.VARIABLE] = instruction_set
    if checks:
        preloaded = os.environ.get("LD_PRELOAD", "")
        environment["LD_PRELOAD"] = f"{CHECKING_LIBRARY} {preloaded}".strip()
    messages: dict[str, str] = {}
    with subprocess.Popen(
        [sys.executable, "-P", "-m", TRIAL],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as process:
        assert process.stdin
        assert process.stdout
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(to_wire(job)) + "\n")
            process.stdin.flush()
        for line in process.stdout:
            with suppress(ValueError):  # a line that a crash cut short
                messages |= json.loads(line)
        return messages, process.wait()


def _import_path() -> str:
    """Return a PYTHONPATH on which the trial finds this very code."""
    here = str(Path(__file__).parents[2])
    return os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
