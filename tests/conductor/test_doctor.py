"""The doctor: every part is one line, a part that fails says why, and nothing is left behind."""

import errno
import os
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch

from conductor.command_line.cli import main
from conductor.display import Display
from conductor.request import Request
from conductor.tools.doctor import Doctor
from conductor.tools.inventory import EXTRAS, computing, used
from conductor.tools.self_test import Part, disk_part, parts, worker_part
from conductor.tools.tiny_study import PROTOCOL, TinyStudy, doctor_request
from kd.errors import WorkerError
from kd.models.families.torchvision import imagenet_files
from kd.names import AUGMENTATIONS, FEATURE_LOSSES, LOGIT_LOSSES, parse_augment
from storage.studies.databases import close_storage, open_storage
from tests.whole.test_faults import disk, remount
from workers.jobs import ExamineJob, MachineJob, PrepareJob
from workers.pools.inline import InlinePool
from workers.pools.worker_pool import WorkerPool
from workers.runners import examining as jobs
from workers.runners.examining import run_examine, run_machine

NEEDING_NO_WORKER = ("disk", "storage", "report", "dashboard")
NEEDING_ONE = ("data", "kernels", "views", "losses", "teacher", "shards", "student", "checkpoint")
CPU = torch.device("cpu")


@pytest.fixture
def no_fork_server(monkeypatch):
    def refuse() -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr("workers.pools.local._start_server", refuse)


def examine(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, dict[str, str]]:
    """Run the command; return its exit code, and what it says under each name."""
    capsys.readouterr()
    code = main(["doctor", *flags])
    said = capsys.readouterr()
    assert said.err == ""
    return code, lines(said.out)


def lines(text: str) -> dict[str, str]:
    """Return what stands after each name; no name is there twice, and no line without one."""
    found = [
        (name.strip(), said) for name, said in re.findall("^  (.{11}) (.+)$", text, re.MULTILINE)
    ]
    titles = ["This machine", "Retort will use", "Self-test"]
    last = text.splitlines()[-1]
    assert [line for line in text.splitlines() if not line.startswith("  ")] == [*titles, last]
    assert len(dict(found)) == len(found)
    return {**dict(found), "last": last}


def wanted(root: Path, storage: str = "") -> Request:
    return doctor_request(root, storage=storage, workers="inline")


def part(name: str, root: Path, storage: str = "") -> Part:
    study = TinyStudy(InlinePool(), root)
    return next(one for one in parts(wanted(root, storage), study, root) if one.name == name)


def everything(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def healthy(tmp_path_factory) -> tuple[int, dict[str, str], Path]:
    """What an examination of this machine says, with a file of weights, and where it was."""
    place = tmp_path_factory.mktemp("healthy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(place / "torch"))
        file = imagenet_files()["resnet18"]
        file.parent.mkdir(parents=True)
        torch.save({"weight": torch.ones(1)}, file)
        said: list[str] = []
        patch.setattr(Display, "say", lambda self, text: said.append(text))
        threads = torch.get_num_threads()
        root = place / "deep" / "runs"
        code = main(["doctor", "--workers", "inline", "--root", str(root)])
        torch.set_num_threads(threads)
    return code, lines("\n".join(said)), place


def test_every_part_works_here(healthy):
    code, said, _ = healthy
    assert code == 0
    assert said["last"] == "all 13 parts work"
    assert set(said) >= {"worker", *NEEDING_NO_WORKER, *NEEDING_ONE}
    for name in ("worker", *NEEDING_NO_WORKER, *NEEDING_ONE):
        assert said[name].startswith("ok "), said[name]


def test_nothing_is_left_nor_the_folders_that_were_made_for_it(healthy):
    assert [path.name for path in healthy[2].iterdir()] == ["torch"]


def test_the_machine_is_described(healthy):
    _, said, place = healthy
    assert re.fullmatch(r"\d+ usable", said["cores"])
    assert re.search(r"\d GB|\d MB", said["memory"])
    assert said["free disk"].endswith(f"under {place / 'deep' / 'runs'}")
    assert f"torch {torch.__version__.partition('+')[0]}" in said["packages"]
    assert said["weights"] == f"resnet18 in {place / 'torch' / 'hub' / 'checkpoints'}"
    assert ("none" in said["GPUs"]) == (not torch.accelerator.is_available())


def test_what_will_be_used_is_printed(healthy):
    _, said, place = healthy
    root = place / "deep" / "runs"
    assert said["device"] == "cpu" or torch.accelerator.is_available()
    assert said["workers"] == "1 (--workers inline), 1 thread each"
    assert said["studies"] == f"sqlite:///{root / 'studies.db'}"
    assert said["cache"].startswith("at most 20.0 GB (--cache-budget), ")


def test_a_machine_without_a_fork_server_costs_one_line(tmp_path, capsys, no_fork_server):
    code, said = examine(capsys, "--workers", "1", "--root", str(tmp_path / "runs"))
    assert code == 1
    assert said["worker"].startswith("FAILED  [Errno 11] Resource temporarily unavailable; ")
    assert "python study.py doctor --workers inline" in said["worker"]
    for name in ("GPUs", "weights", "device", "workers"):
        assert said[name] == "unknown, because no worker responds"
    for name in NEEDING_ONE:
        missing = {"data": "worker", "losses": "worker", "shards": "teacher", "student": "shards"}
        assert said[name] == f"not tested, because {missing.get(name, 'data')} failed"
    for name in NEEDING_NO_WORKER:
        assert said[name].startswith("ok "), said[name]
    assert said["last"] == "4 of 13 parts work"
    assert list(tmp_path.iterdir()) == []


@contextmanager
def read_only(place: Path) -> Iterator[Path]:
    """A folder that cannot be written to, on a disk of its own where the tests run as root."""
    if os.geteuid():
        place.mkdir(mode=0o555)
        yield place
        place.chmod(0o755)
        return
    with disk(place, "1m"):
        remount(place, "ro")
        yield place


def test_a_root_that_cannot_be_written_to_costs_a_line_and_the_rest_is_tried(
    tmp_path, capsys, no_fork_server, monkeypatch
):
    monkeypatch.setattr("reports.write.report.render_page", lambda *found: "a page")
    with read_only(tmp_path / "runs") as root:
        code, said = examine(capsys, "--workers", "1", "--root", str(root))
    assert code == 1
    assert re.match(r"FAILED  \[Errno \d+\] (Read-only file|Permission)", said["disk"])
    assert said["disk"].endswith("choose another --root, on a disk with locks (flock)")
    assert said["storage"].startswith("FAILED")
    assert said["report"].startswith("ok ")


def test_a_disk_that_gives_a_lock_twice_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr("storage.files.artifacts.fcntl.flock", lambda descriptor, how: None)
    with pytest.raises(Exception, match=r"file.lock was granted to two owners"):
        disk_part(tmp_path).check()


def test_a_disk_that_keeps_something_else_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr("conductor.tools.self_test.read_json", lambda path: {})
    with pytest.raises(Exception, match=r"file.json differs from what was written"):
        disk_part(tmp_path).check()


def test_a_storage_that_does_not_answer_costs_one_line_without_its_password(
    tmp_path, capsys, no_fork_server, monkeypatch
):
    pytest.importorskip("psycopg")
    monkeypatch.setattr("reports.write.report.render_page", lambda *found: "a page")
    url = "postgresql+psycopg://ann:secret@127.0.0.1:1/studies"
    code, said = examine(
        capsys, "--workers", "1", "--root", str(tmp_path / "runs"), "--storage", url
    )
    assert code == 1
    assert "does not answer" in said["storage"]
    assert said["storage"].endswith("; choose another --storage")
    assert "secret" not in str(said)
    assert said["disk"].startswith("ok ")


@pytest.mark.parametrize("kind", ["sqlite:///", "journal:"])
def test_studies_that_are_there_are_counted_and_left_as_they_are(tmp_path, kind):
    url = f"{kind}{tmp_path / 'theirs'}"
    storage = open_storage(url)
    optuna.create_study(storage=storage, study_name="theirs")
    close_storage(storage)
    before = everything(tmp_path)
    said = part("storage", tmp_path / "runs", url).check()
    assert said == "a trial was written, read back and removed; 1 existing studies"
    assert everything(tmp_path) == before


def test_a_storage_that_is_no_file_is_left_without_the_study_that_was_tried(tmp_path, monkeypatch):
    storage = optuna.storages.InMemoryStorage()
    monkeypatch.setattr("conductor.tools.self_test.open_storage", lambda url: storage)
    part("storage", tmp_path, "mysql+pymysql://ann@db.example.org/studies").check()
    assert storage.get_all_studies() == []


def test_a_storage_that_forgets_is_noticed(tmp_path, monkeypatch):
    forgetful = SimpleNamespace(trials=[])
    monkeypatch.setattr("conductor.tools.self_test.load_study", lambda storage, name: forgetful)
    with pytest.raises(Exception, match="a trial was read with different values"):
        part("storage", tmp_path).check()
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_storage_is_noticed(tmp_path):
    (tmp_path / "studies.db").write_bytes(b"no database " * 100)
    with pytest.raises(Exception, match=r"studies.db"):
        part("storage", tmp_path).check()


def test_a_storage_in_a_folder_that_is_missing_makes_none(tmp_path):
    with pytest.raises(Exception, match=r"nowhere is not a folder"):
        part("storage", tmp_path, f"sqlite:///{tmp_path / 'nowhere' / 'x.db'}").check()
    assert list(tmp_path.iterdir()) == []


class SilentPool(InlinePool):
    """A worker that never answers."""

    def submit(self, job: Any) -> int:
        return 1

    def events(self, timeout: float | None = None) -> list[Any]:
        return []


def test_a_worker_that_is_silent_is_waited_for_once(tmp_path, monkeypatch):
    monkeypatch.setattr("conductor.tools.tiny_study.PATIENCE", 0.01)
    study = TinyStudy(SilentPool(), tmp_path)
    with pytest.raises(WorkerError, match=r"no response in 0 s"):
        worker_part(study).check()
    with pytest.raises(WorkerError, match=r"the worker stopped responding"):
        study.losses()


def test_an_error_of_many_lines_becomes_one(tmp_path, capsys):
    def fail() -> str:
        raise RuntimeError("CUDA error:\n  " + "many words " * 100)

    said = Doctor(wanted(tmp_path), Display())._try(Part(name="x", check=fail, remedy="mend it"))
    assert said[1].startswith("FAILED  CUDA error: many words")
    assert said[1].endswith(" …; mend it")
    assert "\n" not in said[1]
    assert len(said[1]) < 450


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> ExamineJob:
    """A job over the tiny study's data."""
    root = str(tmp_path_factory.mktemp("ground"))
    job = PrepareJob(protocol=PROTOCOL, root=root)
    dataset = WorkerPool(InlinePool()).run(job, lambda event: None)["dataset"]
    return ExamineJob(protocol=PROTOCOL, root=root, dataset=dataset, part="", folder=root)


def say(job: ExamineJob, name: str) -> str:
    given = {"protocol": job.protocol, "root": job.root, "dataset": job.dataset}
    job = ExamineJob(**given, part=name, folder=job.folder)
    return str(next(iter(run_examine(job, CPU, lambda: False)))["description"])


def test_a_device_that_renders_other_pixels_is_noticed(ground, monkeypatch):
    real, calls = jobs.render, iter(range(10))
    monkeypatch.setattr(jobs, "render", lambda *given: real(*given) + next(calls))
    with pytest.raises(WorkerError, match="cpu renders pixels that differ from the CPU"):
        say(ground, "views")


@pytest.mark.parametrize("wrong", [0.5, float("nan")])
@pytest.mark.parametrize("name", ["dkd", "the gradient of hint"])
def test_a_device_that_computes_another_loss_is_noticed(ground, monkeypatch, name, wrong):
    right = jobs._computed(CPU)
    found = iter([right, {**right, name: right[name] + wrong}])
    monkeypatch.setattr(jobs, "_computed", lambda device: next(found))
    with pytest.raises(WorkerError, match=f"^{name} on cpu differs from the CPU's by"):
        say(ground, "losses")


def test_every_augmentation_is_compared():
    assert {name for name, _ in parse_augment(PROTOCOL.augment, 16)} == {*AUGMENTATIONS.names}


def test_every_loss_is_compared_with_its_gradient():
    names = {"hard", *LOGIT_LOSSES.names, *FEATURE_LOSSES.names}
    computed = jobs._computed(CPU)
    assert set(computed) == {*names, *(f"the gradient of {name}" for name in names)}
    assert all(value.isfinite().all() and value.any() for value in computed.values())


def test_a_checkpoint_of_other_bits_is_noticed(ground, monkeypatch):
    real = jobs.read_checkpoint

    def flipped(path: Path, run: dict[str, Any]) -> tuple[dict[str, torch.Tensor], list[Any]]:
        tensors, history = real(path, run)
        tensors["optimizer.0.momentum_buffer"].view(torch.int32)[0] ^= 1
        return tensors, history

    monkeypatch.setattr(jobs, "read_checkpoint", flipped)
    with pytest.raises(WorkerError, match=r"differs in optimizer.0.momentum_buffer$"):
        say(ground, "checkpoint")


def test_accelerators_are_described_by_what_they_tell(tmp_path, monkeypatch):
    known = SimpleNamespace(name="NVIDIA A100", total_memory=42_400_000_000, major=8, minor=0)
    older = SimpleNamespace(name="Tesla V100", total_memory=16_900_000_000, major=7, minor=0)
    module = SimpleNamespace(get_device_properties=lambda index: (known, older)[index])
    monkeypatch.setattr(jobs, "accelerator_count", lambda: 2)
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda: SimpleNamespace(type="cuda")
    )
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch, "get_device_module", lambda kind: module)
    job = MachineJob(protocol=PROTOCOL, root=str(tmp_path))
    found = next(iter(run_machine(job, torch.device("cuda:0"), lambda: False)))
    assert dict(computing(found))["GPUs"] == (
        "NVIDIA A100, 42.4 GB, capability 8.0, bfloat16; "
        "Tesla V100, 16.9 GB, capability 7.0, no bfloat16"
    )
    assert dict(used(wanted(tmp_path), found, 2))["device"] == "cuda:0 and the others, in turn"
    module.get_per_process_memory_fraction = lambda device: 0.25
    found = next(iter(run_machine(job, torch.device("cuda:0"), lambda: False)))
    assert dict(used(wanted(tmp_path), found, 8))["device"] == (
        "cuda:0 and the others, in turn; a worker may allocate 25 % of its memory"
    )
    monkeypatch.setattr(torch, "get_device_module", lambda kind: SimpleNamespace())
    found = next(iter(run_machine(job, torch.device("cuda:0"), lambda: False)))
    assert dict(computing(found))["GPUs"].startswith("cuda")


def test_a_disk_smaller_than_the_budget_is_printed(tmp_path, monkeypatch):
    monkeypatch.setattr("conductor.tools.inventory.free_disk", lambda root: 10**9)
    text = dict(used(wanted(tmp_path), None, None))["cache"]
    assert text == ("at most 20.0 GB (--cache-budget), but the disk has room for only 900.0 MB")


def test_extras_are_those_of_the_project():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert set(EXTRAS) == set(project["optional-dependencies"]) - {"dev"}


def test_a_mistake_costs_one_line(tmp_path, capsys):
    root = tmp_path / "runs"
    assert main(["doctor", "--workers", "0", "--root", str(root)]) == 2
    assert capsys.readouterr().err.startswith("study.py: --workers must be auto, inline, ray or")
    assert not root.exists()
