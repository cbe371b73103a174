"""Whole studies from the command line: run, finished later, killed, confirmed and looked at."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from conductor.command_line.cli import main
from kd.errors import StudyError
from storage.files.layout import Layout
from storage.files.records import Finalists, RunRecord, StudySettings
from storage.studies.databases import close_storage, open_storage
from tests.support.tiny import changed
from workers.events import Result
from workers.pools.worker_pool import WorkerPool

ROOT = Path(__file__).parents[2]
PATIENCE = 120  # s that a test waits for what should happen at once, on a machine under load
TINY = [
    "--image-size",
    "8",
    "--train-size",
    "60",
    "--teacher",
    "resnet8-w0.25",
    "--teacher-epochs",
    "1",
    "--epochs",
    "2",
    "--batch-size",
    "16",
    "--augment",
    "crop=1",
    "--seeds",
    "1",
]
VARYING = ["started", "seconds"]  # columns of trials.csv that no two runs share


@pytest.fixture(autouse=True)
def _signals_as_before():
    kept = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, kept)


@pytest.fixture(autouse=True, scope="module")
def _without_what_only_takes_time() -> Iterator[None]:
    """Studies in this process neither wait for the disk nor measure latency well."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("workers.runners.measuring.REPEATS", 2)
        yield


def run(root: Path, *arguments: str) -> None:
    """Run a study of 3 trials an arm here, unless `arguments` say otherwise."""
    assert main(["run", "--root", str(root), *changed([*TINY, "--trials", "3"], arguments)]) == 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a study that ran in one go, in this process."""
    root = tmp_path_factory.mktemp("finished")
    run(root, "--workers", "inline")
    return root


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of that root: a root may be moved."""
    return Path(shutil.copytree(finished, tmp_path / "copied"))


def trials(root: Path) -> pd.DataFrame:
    """Return all of trials.csv that a study must repeat."""
    frame = pd.read_csv(Layout(root).study("digits").trials_csv, dtype=str, keep_default_na=False)
    return frame.drop(columns=VARYING)


def report(root: Path, name: str = "digits") -> dict[str, Any]:
    text = Layout(root).study(name).report_json.read_text()
    return json.loads(re.sub(r"--root \S+", "--root ROOT", text))


def runs(root: Path) -> dict[str, tuple[Any, ...]]:
    """Return by folder what every run of a study must repeat."""
    folder = Layout(root).study("digits").folder
    found = {}
    for path in folder.rglob("result.json"):
        if path.parent == folder / "confirm" / "teacher":
            continue
        one = RunRecord.read(path)
        curve = [(each.epoch, each.accuracy, each.loss) for each in one.history]
        kept = (one.recipe, one.seed, one.outcome, curve, one.test)
        found[str(path.parent.relative_to(folder))] = kept
    return found


def written(root: Path) -> dict[Path, int]:
    """Return when each run of a study was written."""
    return {path: path.stat().st_mtime_ns for path in root.rglob("result.json")}


def test_a_study_states_what_it_does_and_what_it_found(tmp_path, capsys):
    small = ["--name", "small", "--trials", "1", "--arms", "plain", "--batch-size", "64"]
    run(tmp_path, "--workers", "inline", *small)
    said = capsys.readouterr()
    assert said.err == ""
    lines = said.out.splitlines()
    assert "data: digits, 10 classes, 60 training" in said.out
    assert "sealed test images; one batch of 64 holds them all: one step per epoch" in said.out
    kept = json.loads((tmp_path / "small" / "protocol.json").read_text())
    for name in ("batch_size", "train_size", "seed", "image_size"):
        assert re.search(rf"[ ,]{name} {kept[name]}(,|$)", said.out, re.MULTILINE)
    assert any(line.startswith("teacher: resnet8-w0.25, trained in") for line in lines)
    assert any(re.match(r"plain 0: \d+\.\d % validation accuracy", line) for line in lines)
    assert any("test accuracy" in line for line in lines)
    assert lines[-2] == f"report:    {tmp_path / 'small' / 'report.html'}"
    assert lines[-1].startswith("dashboard: python study.py dashboard")


def test_a_study_leaves_its_report_and_all_that_it_is_made_of(finished):
    paths = Layout(finished).study("digits")
    for path in (
        paths.protocol,
        paths.settings,
        paths.seal,
        paths.costs,
        paths.finalists,
        paths.report_html,
        paths.trials_csv,
    ):
        assert path.stat().st_size > 0, path
    assert (finished / "studies.db").exists()
    assert list((finished / "artifacts").iterdir())
    assert not list(paths.folder.rglob("checkpoint.safetensors"))
    assert not list(finished.rglob("*.tmp"))


def test_the_report_has_the_keys_that_other_programs_read(finished):
    found = report(finished)
    for key in (
        "schema",
        "study",
        "protocol",
        "verdict",
        "teachers",
        "arms",
        "finalists",
        "ledger",
    ):
        assert key in found, key
    assert found["schema"] == 1
    assert set(found["arms"]) == {"scheduled", "plain"}
    for arm in found["arms"].values():
        assert (arm["trials"], arm["complete"], arm["pruned"]) == (3, 3, 0)
    assert found["study"]["missing"] == []
    assert {one["role"] for one in found["finalists"]} == {"default", "tuned"}
    assert all(len(one["test_values"]) == 1 for one in found["finalists"])
    assert found["verdict"]["kind"] == "none"  # one seed is no evidence


def test_the_seal_was_opened_for_confirmation_alone(finished):
    purposes = [opening["purpose"] for opening in report(finished)["seal"]]
    paths = Layout(finished).study("digits")
    chosen = Finalists.read(paths.finalists)
    assert len(purposes) == len({one.name for one in chosen.finalists}) + 1
    assert purposes[-1] == "the teacher"
    assert all(re.fullmatch(r"(scheduled|plain) .*, seed 1", one) for one in purposes[:-1])


def test_all_trials_of_all_arms_are_what_the_database_states(finished):
    storage = open_storage(Layout(finished).studies_url)
    names = {study.study_name for study in storage.get_all_studies()}
    counts = {
        study.study_name: len(storage.get_all_trials(study._study_id))
        for study in storage.get_all_studies()
    }
    close_storage(storage)
    assert names == {"digits.scheduled", "digits.plain"}
    assert set(counts.values()) == {3}
    assert len(trials(finished)) == 6


def test_more_seeds_and_ablations_stay_when_the_first_line_runs_again(copied, capsys):
    more = ["--seeds", "2", "--ablate"]
    assert main(["confirm", "--root", str(copied), "--workers", "inline", *more]) == 0
    made = written(copied)
    settings = StudySettings.read(Layout(copied).study("digits").settings)
    assert settings.command[-3:] == ["--seeds", "2", "--ablate"]
    assert settings.command.count("--seeds") == 1
    run(copied, "--workers", "inline")
    assert written(copied) == made
    assert {len(one["test_values"]) for one in report(copied)["finalists"]} == {2}
    assert StudySettings.read(Layout(copied).study("digits").settings).command == settings.command


def test_the_same_line_again_starts_nothing(copied, capsys):
    before, frame, told = written(copied), trials(copied), runs(copied)
    run(copied, "--workers", "inline")
    assert written(copied) == before
    assert trials(copied).equals(frame)
    assert runs(copied) == told
    said = capsys.readouterr().out
    assert (
        "validation accuracy"
        not in re.sub(r"^teacher.*", "", said, flags=re.MULTILINE).split("\n\n")[0]
    )
    assert "teacher: resnet8-w0.25, found" in said
    assert "one step an epoch" not in said


def test_more_trials_are_added_to_those_that_are_there(copied):
    frame, before = trials(copied), written(copied)
    run(copied, "--workers", "inline", "--trials", "5")
    more = trials(copied)
    assert more.groupby("arm").size().to_dict() == {"scheduled": 5, "plain": 5}
    old = more[more.number.astype(int) < 3].reset_index(drop=True)
    assert old[frame.columns].equals(frame)
    kept = {path: when for path, when in before.items() if "trials" in path.parts}
    assert kept.items() <= written(copied).items()
    assert len(report(copied)["seal"]) > len(kept) - 6


def test_a_study_may_be_resumed_without_its_flags(copied, capsys):
    before = written(copied)
    resumed = ["run", "--root", str(copied), "--trials", "3", "--seeds", "1", "--workers", "inline"]
    assert main(resumed) == 0
    assert written(copied) == before


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (["--epochs", "3"], "has another protocol (epochs: 2 -> 3)"),
        (["--pruner", "none"], "was begun with a search by promotion; omit --sampler and --pruner"),
        (["--sampler", "random"], "was begun with a search by promotion; omit --sampler and"),
        (["--lag", "1"], "was begun with --lag 4, not --lag 1"),
    ],
)
def test_a_changed_flag_is_refused_by_its_name(copied, capsys, flag, message):
    before = written(copied)
    assert main(["run", "--root", str(copied), "--workers", "inline", *flag]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert written(copied) == before


def test_a_study_without_a_teacher_yet_may_be_changed_unless_others_may_share_it(
    tmp_path, capsys, monkeypatch
):
    root = tmp_path / "runs"
    begun = ["run", "--root", str(root), "--workers", "inline", *TINY, "--trials", "1"]

    def fail(*given: object) -> str:
        raise StudyError("the machine fails")

    with monkeypatch.context() as patched:
        patched.setattr("conductor.stages.preparing.Preparation._prepare_teacher", fail)
        assert main([*begun, "--teacher-lr", "0.3"]) == 2
    assert "the machine fails" in capsys.readouterr().err
    given = ["--teacher-lr", "0.2", "--lag", "1"]
    with monkeypatch.context() as server:
        server.setattr("conductor.stages.provenance.storage_file", lambda url: None)
        assert main([*begun, *given]) == 2
        assert "has another protocol (teacher_lr: " in capsys.readouterr().err
    assert main([*begun, *given]) == 0
    settings = StudySettings.read(Layout(root).study("digits").settings)
    assert settings.lag == 1
    assert settings.command[-4:] == given
    assert report(root)["protocol"]["teacher_lr"] == 0.2
    capsys.readouterr()
    assert main([*begun, "--lag", "2"]) == 2
    assert "was begun with --lag 1, not --lag 2" in capsys.readouterr().err


def test_weights_that_cannot_be_read_end_a_command_before_its_study_begins(tmp_path, capsys):
    weights = tmp_path / "weights.safetensors"
    weights.write_text("no weights")
    root = tmp_path / "runs"
    begun = ["run", "--root", str(root), "--workers", "inline", *TINY]
    assert main([*begun, "--teacher-weights", str(weights)]) == 2
    assert "cannot be read as safetensors" in capsys.readouterr().err
    assert not Layout(root).study("digits").settings.exists()


def test_a_study_without_a_teacher_yet_continues_without_its_flags(tmp_path, monkeypatch):
    root = tmp_path / "runs"
    begun = ["run", "--root", str(root), "--workers", "inline", *TINY, "--trials", "1"]

    def fail(*given: object) -> str:
        raise StudyError("the machine fails")

    with monkeypatch.context() as patched:
        patched.setattr("conductor.stages.preparing.Preparation._prepare_teacher", fail)
        assert main(begun) == 2
    before = StudySettings.read(Layout(root).study("digits").settings)
    assert before.teachers == ()
    few = ["--trials", "1", "--seeds", "1"]
    assert main(["run", "--root", str(root), "--workers", "inline", *few]) == 0
    after = StudySettings.read(Layout(root).study("digits").settings)
    assert after.created == before.created
    assert after.command == before.command


def test_an_arm_may_be_added_later(copied, tmp_path):
    space = tmp_path / "mine.py"
    space.write_text("from search_spaces.plain import suggest\n")
    arms = ["--space", str(space), "--arms", "plain,scheduled"]
    run(copied, "--workers", "inline", "--trials", "3", *arms)
    assert set(report(copied)["arms"]) == {"scheduled", "plain", "mine"}
    settings = StudySettings.read(Layout(copied).study("digits").settings)
    [copy] = Layout(copied).own.glob("mine-*")
    assert settings.spaces["mine"].source == f"mine.py@{copy.name.removeprefix('mine-')}"


def test_a_space_that_changed_since_is_refused(copied, tmp_path, capsys):
    space = tmp_path / "mine.py"
    space.write_text("from search_spaces.plain import suggest\n")
    only = ["--space", str(space), "--arms", "plain", "--name", "other", "--workers", "inline"]
    run(copied, *only, "--trials", "1")
    space.write_text("from search_spaces.constant import suggest\n")
    capsys.readouterr()
    assert main(["run", "--root", str(copied), *TINY, *only, "--trials", "1"]) == 2
    assert "its search space mine changed" in capsys.readouterr().err


def test_another_seed_gives_another_study(finished, tmp_path):
    run(tmp_path, "--workers", "inline", "--seed", "1", "--arms", "plain", "--trials", "2")
    one, other = trials(finished), trials(tmp_path)
    one = one[(one.arm == "plain") & (one.number == "1")]
    other = other[other.number == "1"]
    assert one.lr.item() != other.lr.item()
    first = "trials/plain/00000"
    assert runs(tmp_path)[first] != runs(finished)[first]


@pytest.mark.slow
def test_processes_in_another_root_give_the_same_study(finished, tmp_path):
    run(tmp_path, "--workers", "2")
    assert trials(tmp_path).equals(trials(finished))
    assert runs(tmp_path) == runs(finished)
    one, other = report(tmp_path), report(finished)
    for key in ("verdict", "finalists", "arms", "optimism"):
        for found in (one[key], other[key]):
            if key == "finalists":
                [finalist.pop("latency") for finalist in found]
        assert one[key] == other[key]


@contextmanager
def supervisor(root: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a study in a process of its own; it is ended with the block."""
    command = [sys.executable, ROOT / "study.py", "run", "--root", root, *changed(TINY, arguments)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], pattern: str) -> str:
    """Return the first line that matches."""
    for line in process.stdout:
        if re.search(pattern, line):
            return line
    raise AssertionError(f"ended before {pattern}: {process.stderr.read()}")


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """The root of a study that got Ctrl-C amid the search; its exit code and last words."""
    root = tmp_path_factory.mktemp("interrupted")
    with supervisor(root, "--trials", "3", "--workers", "2") as process:
        read_until(process, r"^scheduled 0: ")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
    return root, process.returncode, said


@pytest.mark.slow
def test_an_interrupt_ends_with_the_command_that_continues(interrupted):
    root, code, said = interrupted
    assert code == 130
    assert said.count("\n") == 1
    assert "to continue, run: python study.py run --root" in said
    assert not list(root.rglob("*.owner"))


@pytest.mark.slow
def test_a_study_interrupted_and_killed_again_and_again_ends_as_an_uninterrupted_one(
    finished, interrupted
):
    root, _, _ = interrupted
    for moment in (r"^plain \d: ", r"selection \d: ", r"seed 1 of 1: "):
        with supervisor(root, "--trials", "3", "--workers", "2") as process:
            read_until(process, moment)
            process.kill()
    run(root, "--workers", "inline")
    assert trials(root).equals(trials(finished))
    assert runs(root) == runs(finished)
    assert not list(root.rglob("checkpoint.safetensors"))


@pytest.mark.slow
def test_a_study_is_run_by_one_supervisor_at_a_time(copied, capsys):
    with supervisor(copied, "--trials", "300", "--workers", "1") as process:
        read_until(process, r"^(scheduled|plain) \d+: ")
        arguments = ["--root", str(copied), "--trials", "300", "--workers", "inline"]
        assert main(["run", *arguments]) == 2
    said = capsys.readouterr().err
    assert f"study digits is being run by process {process.pid} on {socket.gethostname()}" in said
    assert said.count("\n") == 1


def test_a_folder_of_images_runs_through(tmp_path, capsys):
    draw, folder = np.random.default_rng(0), tmp_path / "My photos"
    for place, name in enumerate(("dark", "light [x]")):
        (folder / name).mkdir(parents=True)
        for number in range(24):
            pixels = draw.integers(100 * place, 100 * place + 100, (10, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    dataset = ["--dataset", f"folder:{folder}", "--train-size", "0"]
    root = tmp_path / "runs"
    run(root, *dataset, "--trials", "1", "--workers", "inline")
    found = report(root, "My-photos")
    assert found["study"]["test_images"] == 10
    assert found["arms"]["plain"]["trials"] == 1
    assert "2 classes" in capsys.readouterr().out


def test_a_recipe_that_diverges_is_the_worst_and_the_study_continues(tmp_path):
    space = tmp_path / "wild.py"
    space.write_text(
        "from kd.recipe import Recipe\n\n\n"
        "def suggest(trial):\n"
        "    wild = trial.suggest_categorical('wild', [True, False])\n"
        "    return Recipe(lr=10.0, weight_decay=1.0) if wild else Recipe()\n\n\n"
        "ENQUEUED = {'wild': {'wild': True}, 'mild': {'wild': False}}\n"
    )
    long = ["--epochs", "8", "--warmup", "0", "--views", "2", "--confirm-epochs", "1"]
    only = ["--space", str(space), "--arms", "plain", "--workers", "inline", "--trials", "2"]
    run(tmp_path / "runs", *long, *only)
    frame = trials(tmp_path / "runs").set_index(["arm", "number"])
    wild, mild = frame.loc[("wild", "0")], frame.loc[("wild", "1")]
    assert (wild.state, float(wild.value), wild.diverged) == ("COMPLETE", 0.0, "True")
    assert (mild.state, mild.diverged) == ("COMPLETE", "False")
    assert report(tmp_path / "runs")["arms"]["wild"]["diverged"] == 1


def test_the_report_is_written_again(copied, capsys):
    paths = Layout(copied).study("digits")
    before = report(copied)
    for path in (paths.report_json, paths.report_html, paths.trials_csv):
        path.unlink()
    assert main(["report", "--root", str(copied)]) == 0
    assert report(copied) == before
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {paths.report_html}"


def test_confirm_adds_the_seeds_that_are_missing(copied):
    before = written(copied)
    arguments = ["--root", str(copied), "--seeds", "2", "--workers", "inline"]
    assert main(["confirm", *arguments]) == 0
    after = written(copied)
    assert before.items() <= after.items()
    chosen = Finalists.read(Layout(copied).study("digits").finalists)
    assert len(after) - len(before) == len({one.name for one in chosen.finalists})
    assert all(len(one["test_values"]) == 2 for one in report(copied)["finalists"])


def test_verify_finds_that_the_cache_agrees_with_the_teacher(copied, capsys):
    assert main(["verify", "--root", str(copied), "--workers", "inline", "--rows", "9"]) == 0
    said = capsys.readouterr().out
    assert "view 0: 9 rows differ by at most 0" in said
    assert "2 views agree with the teacher to 0" in said


@pytest.mark.parametrize("differences", [(0.0, 0.5), (float("nan"), 0.0), (0.0, float("nan"))])
def test_verify_finds_a_cache_of_another_teacher(finished, capsys, monkeypatch, differences):
    results = [Result.of(difference=one, rows=9) for one in differences]
    monkeypatch.setattr(WorkerPool, "run_all", lambda pool, jobs: zip(jobs, results, strict=True))
    assert main(["verify", "--root", str(finished), "--workers", "inline"]) == 2
    said = capsys.readouterr()
    assert "agree" not in said.out
    assert "the teacher cache differs from the teacher by" in said.err


def test_verify_finds_a_damaged_shard(copied, capsys):
    (shard,) = copied.glob("cache/shards/*/view-00001/reading.safetensors")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert main(["verify", "--root", str(copied), "--workers", "inline"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"study.py: {shard} differs")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "x"], "--workers must be"),
        (["--workers", "0"], "--workers must be"),
        (["--rows", "0"], "--rows must be at least 1, got 0"),
        (["--rows", "-5"], "--rows must be at least 1, got -5"),
    ],
)
def test_verify_refuses_what_makes_no_sense(finished, capsys, arguments, message):
    defaults = [] if "--workers" in arguments else ["--workers", "inline"]
    assert main(["verify", "--root", str(finished), *arguments, *defaults]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def get(url: str, process: subprocess.Popen[str]) -> bytes:
    """Fetch a page of a server that may be starting."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                return bytes(answer.read())
        except OSError:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline


def test_the_dashboard_serves_the_studies(copied):
    port = free_port()
    where = ["--root", copied, "--port", str(port)]
    with subprocess.Popen(
        [sys.executable, ROOT / "study.py", "dashboard", *where],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert f"dashboard: http://127.0.0.1:{port}/" in process.stdout.readline()
            assert b"<html" in get(f"http://127.0.0.1:{port}/dashboard/", process).lower()
            listed = json.loads(get(f"http://127.0.0.1:{port}/api/studies", process))
            names = {study["study_name"] for study in listed["study_summaries"]}
            assert names == {"digits.scheduled", "digits.plain"}
            assert ended_by_interrupts(process) is not None
        finally:
            process.kill()


def ended_by_interrupts(process: subprocess.Popen[str]) -> int | None:
    """Return the exit code; amid an answer the server takes one for an error of its own."""
    for _ in range(PATIENCE):
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            return process.wait(1)
    return None
