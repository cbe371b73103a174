"""Find the convolution kernels that are correct on this CPU, and limit workers to them.

A test runs in its own process, which is this module, under glibc's checks of the heap: a kernel
that writes past its memory is detected when that memory is freed, and memory that was never written
is read as huge numbers. The result is stored for this processor, these versions and the study's
shapes.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kd.errors import ArtifactError, ProtocolError, StudyError
from kd.json_data import to_wire
from kd.models.numerics import place
from kd.names import parse_model
from kd.training import kernels
from storage.files.artifacts import fingerprint, locked
from storage.files.datasets import open_part
from storage.files.layout import kernels_record, lock_of
from storage.files.records import Record
from workers.events import Event, Result, ShouldStop
from workers.jobs import Job, KernelsJob, job_from_wire
from workers.machine import processor
from workers.runners.loading import build_network

# glibc fills what is allocated with 0x7f bytes (3.4e38 as float32), and checks blocks when they
# are freed; its newer releases keep that check in a library of its own.
HEAP_CHECKS = {"MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "128"}
CHECKING_LIBRARY = "libc_malloc_debug.so.0"
TEST = "workers.runners.kernels"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels(Record):
    """The widest instruction set that workers may use, empty for no limit, and the reason."""

    limit: str
    reason: str


_STARTED_WITH = kernels.limit()  # the limit that the user has set, before any test
_limits: dict[str, str] = {}  # of this process, by the fingerprint of what was tested


def run_kernels(job: KernelsJob, device: torch.device, stopped: ShouldStop) -> Iterator[Event]:
    """Report the limit of the kernels, which `limit_kernels` has set before the job began."""
    if device.type != "cpu":
        yield Result.of(limit="", reason="", used="")
        return
    tested = _tested(job)
    yield Result.of(limit=tested.limit, reason=tested.reason, used=kernels_used())


def kernels_used() -> str:
    """Return the kernels that this process uses, as in `oneDNN 3.12.0, at most AVX`."""
    limit, version = kernels.limit(), kernels.onednn_version()
    return f"oneDNN {version or 'none'}" + (f", at most {limit}" if limit else "")


def limit_kernels(job: Job, device: torch.device) -> None:
    """Limit this process, on a CPU, to kernels that are correct for the job's study.

    Jobs without a data set compute nothing. Raises StudyError if no kernels are correct, or if the
    process has already computed with other ones.
    """
    if device.type != "cpu" or not job.dataset:
        return
    key = fingerprint(_identity(job))
    if key in _limits:
        return
    limit = _tested(job.job(KernelsJob)).limit
    if _limits and limit != kernels.limit():
        raise StudyError(
            f"this process has computed with {kernels_used()}, but this study needs "
            f"{kernels.VARIABLE}={limit}; run the command again in a new process"
        )
    if limit:
        os.environ[kernels.VARIABLE] = limit
    _limits[key] = limit


def _identity(job: Job) -> dict[str, Any]:
    """Return everything that the result of the test depends on."""
    protocol = job.protocol
    return {
        "processor": processor(),
        "torch": torch.__version__,
        "given": _STARTED_WITH,
        "dataset": job.dataset,
        "models": [*protocol.models],
        "stem": protocol.stem,
        "image_size": protocol.image_size,
        "teacher_size": protocol.teacher_size,
        "batch_size": protocol.batch_size,
        "threads": protocol.threads,
        "precision": protocol.precision,
    }


def _tested(job: KernelsJob) -> Kernels:
    """Return the stored result for the kernels of this study; test them first if there is none."""
    if kernels.known_limit() and kernels.limit() == kernels.known_limit():
        reason = f"AVX2 kernels of oneDNN {kernels.onednn_version()} are known to be wrong"
        return Kernels(limit=kernels.limit(), reason=reason)
    path, tested = kernels_record(fingerprint(_identity(job))), None
    try:
        with locked(lock_of(path), wait=True):
            with suppress(ArtifactError):  # missing or damaged
                return Kernels.read(path)
            tested = _test(job)
            tested.write(path)
    except ArtifactError:  # it cannot be stored: every process tests
        tested = tested or _test(job)
    return tested


def _test(job: KernelsJob) -> Kernels:
    """Test the widest kernels, then narrower ones until they are correct.

    Raises StudyError if none are correct, ProtocolError if one model of the user's own ended every
    test process: then the fault is in its code, not in the kernels.
    """
    reason, crashed = "", set()
    for instruction_set in (_STARTED_WITH, *kernels.narrower(_STARTED_WITH)):
        wrong, network = _run_test(job, instruction_set)
        if not wrong:
            return Kernels(limit=instruction_set, reason=reason)
        reason = reason or wrong
        crashed.add(network)
    (name, *others) = crashed
    if not others and name and parse_model(name).digest:
        raise ProtocolError(
            f"{parse_model(name).base} ends the process that tests it, whatever the instruction "
            f"set: {reason}; correct the code that ends it (os.abort, os._exit, code in C), and "
            "run the same command again"
        )
    raise StudyError(
        f"convolutions are wrong on this processor with every instruction set: {reason}; "
        "train on a GPU, or with another version of torch"
    )


def _run_test(job: KernelsJob, instruction_set: str) -> tuple[str, str]:
    """Run one test; return the failure and the network that crashed, empty for none."""
    messages, code = _exchange(job, instruction_set, HEAP_CHECKS)
    if "ready" not in messages:  # this system lacks the heap checks
        messages, code = _exchange(job, instruction_set, {})
    if "wrong" in messages:
        return messages["wrong"], ""
    if "done" in messages and code == 0:
        return "", ""
    network = messages.get("network", "")
    own = bool(network and parse_model(network).digest)
    if "ready" not in messages or code == -signal.SIGKILL or (code == 1 and not own):
        raise StudyError(
            f"the test of convolution kernels ended with exit code {code}"
            f"{' (out of memory?)' if code == -signal.SIGKILL else ''}; "
            "run: python study.py doctor"
        )
    case = messages.get("begun", "what precedes the first convolution")
    return f"{case} crashes with exit code {code}", network


def _exchange(
    job: KernelsJob, instruction_set: str, checks: dict[str, str]
) -> tuple[dict[str, str], int]:
    """Run the test's process; return the last message of each kind, and its exit code.

    Its input stays open until it ends, so that it exits when this process does.
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
        [sys.executable, "-P", "-m", TEST],
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
            with suppress(ValueError, TypeError):  # a line cut short, or not of the test
                messages |= json.loads(line)
        return messages, process.wait()


def _import_path() -> str:
    """Return a PYTHONPATH with the folder of this code first."""
    here = str(Path(__file__).parents[2])
    return os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))


def main() -> None:
    """Be the process of a test: test the networks of the job that standard input describes.

    The job is one line of JSON; the end of the input ends the process. Every line of output is a
    JSON object: `ready`, then `network` with the name of every network and `begun` for every
    convolution of it, then `done`, or `wrong` with the reason.
    """
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a model's own prints go to standard error

    def send(what: str, text: str = "") -> None:
        print(json.dumps({what: text}), file=output, flush=True)

    job = job_from_wire(json.loads(sys.stdin.readline()))
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    torch.set_num_threads(job.protocol.threads)
    send("ready")
    try:
        for name in job.protocol.models:
            send("network", name)
            _test_network(job, name, lambda case: send("begun", case))
    except kernels.WrongKernelError as error:
        send("wrong", str(error))
    else:
        send("done")


def _test_network(job: Job, name: str, begun: Callable[[str], None]) -> None:
    """Test one network on training examples, at the shapes of the study.

    A network that raises an error is skipped: a later job meets the error and reports it.
    """
    try:
        examples = open_part(job.layout.dataset(job.dataset), "train")
        kernels.try_kernels(
            place(build_network(job, name), torch.device("cpu")),
            examples,
            batch=min(job.protocol.batch_size, len(examples)),
            precision=job.protocol.precision,
            begun=begun,
        )
    except (kernels.WrongKernelError, MemoryError):
        raise
    except BaseException as error:
        print(f"{name} is skipped: {error!r}", file=sys.stderr)


def _exit_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
