"""How long it takes until something is said, and until the first training step."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from storage.files.layout import Layout
from storage.files.records import RunRecord
from tests.benchmarks.harness import Figure, seconds, spread
from workers.pools.local import PRELOADED

ROOT = Path(__file__).parents[2]
ROUNDS = 5
PATIENCE = 600.0  # s until a study that has not begun to train is given up
LOOK = 0.005  # s between two looks
STUDY = (
    *("--epochs", "4", "--teacher-epochs", "1", "--train-size", "200", "--trials", "1"),
    *("--arms", "scheduled,plain", "--seeds", "1", "--workers", "1"),
)
IMPORTS = {
    "supervisor: Optuna, SQLAlchemy, …": "import conductor.study",
    "fork server: torch, torchvision, …": f"import {', '.join(PRELOADED)}",
}


def figures(quick: bool) -> Iterator[Figure]:
    """Yield seconds of `--help`, and of a study up to its first step, with what they consist of."""
    rounds = 1 if quick else ROUNDS
    said = [_took("study.py", "--help") for _ in range(rounds)]
    yield spread("python study.py --help", said, unit="s", goal=0.3)
    with TemporaryDirectory() as folder:
        first_step(Path(folder), "warm")  # makes data, teacher and shards
        begun = [first_step(Path(folder), f"round-{number}") for number in range(rounds)]
    what = "start-up until the first training step, teacher and shards cached"
    yield spread(what, begun, unit="s", goal=8.0)
    for name, line in IMPORTS.items():
        yield spread(
            f"of it: imports, {name}", [_took("-c", line) for _ in range(rounds)], unit="s"
        )


def _took(*arguments: str) -> float:
    command = [sys.executable, *arguments]
    return seconds(lambda: subprocess.run(command, cwd=ROOT, check=True, capture_output=True))


def first_step(root: Path, name: str) -> float:
    """Start a study, and return the seconds until its first step; the study is left after that.

    The first checkpoint is written after the first epoch, whose record says how long it took.
    """
    run = Layout(root).study(name).trial("scheduled", 0)
    started = time.perf_counter()
    command = [sys.executable, "study.py", "--root", str(root), "--name", name, *STUDY]
    said = root / f"{name}.txt"
    with (
        said.open("w") as out,
        subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out) as study,
    ):
        try:
            _wait_for(run.checkpoint, study, said)
            kept = time.perf_counter()
            _wait_for(run.result, study, said)
        finally:
            study.send_signal(signal.SIGINT)
    return kept - started - RunRecord.read(run.result).history[0].seconds


def _wait_for(path: Path, study: subprocess.Popen[bytes], said: Path) -> None:
    """Raises RuntimeError, with what the study has said, when it ends before it makes `path`."""
    started = time.perf_counter()
    while not path.exists():
        if study.poll() is not None or time.perf_counter() - started > PATIENCE:
            raise RuntimeError(f"the study did not make {path}: {said.read_text()}")
        time.sleep(LOOK)
