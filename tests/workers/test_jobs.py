"""Every job does its work once, from what is on disk, and says how it ended."""

import importlib
import inspect
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from conductor.stages.own_files import keep_own, pin_functions
from conductor.tools.verifying import TOLERANCE
from kd.data.views import render, view
from kd.errors import ArtifactError, ProtocolError
from kd.json_data import to_wire
from kd.models.build import build
from kd.recipe import Recipe, Schedule
from kd.training.evaluation import evaluate, predict
from kd.training.teacher import LiveTeacher, TeacherReading
from storage.files import shards
from storage.files.artifacts import fingerprint, finish, is_finished, read_manifest
from storage.files.datasets import open_part
from storage.files.layout import Layout, RunLayout, view_folder
from storage.files.records import Costs, StudentSizes
from storage.files.seal import openings
from storage.files.shard_folders import cached_taps, missing_views
from storage.files.tensors import map_tensors, write_tensors
from tests.support.ground import HINT, Ground, history
from tests.support.small import DISTILLED, PLAIN, STUDENT, TEACHER, protocol, same_bits, square
from tests.support.tiny import leave_kernels_out
from workers.events import (
    Diverged,
    Event,
    Failed,
    LastEvent,
    Note,
    Progress,
    Result,
    Stopped,
    event_from_wire,
)
from workers.execute import execute
from workers.jobs import (
    JOBS,
    CostJob,
    ExamineJob,
    ExportJob,
    Job,
    KernelsJob,
    LossJob,
    MachineJob,
    ModelsJob,
    PrepareJob,
    ProjectionJob,
    StudentsJob,
    TapsJob,
    TeacherJob,
    TeacherTestJob,
    TrainJob,
    VerifyJob,
    WeightsJob,
    job_from_wire,
)
from workers.pools import on_ray
from workers.runners import caching, measuring, training
from workers.runners.caching import view_seed
from workers.runners.loading import load_live_teacher, load_teacher, teacher_source
from workers.runners.preparing import Tuning, teacher_identity

CPU = torch.device("cpu")


def verify(ground: Ground, view: int = 0) -> VerifyJob:
    return ground.job(VerifyJob, view=view, rows=20)


def confirm(ground: Ground, recipe: Recipe, name: str = "run") -> TrainJob:
    seal = str(ground.root / "seal.json")
    return ground.train(recipe, name, confirm="plain, replicate 0", seal=seal)


def teacher_test(ground: Ground) -> TeacherTestJob:
    root = ground.root
    return ground.job(TeacherTestJob, folder=str(root / "teacher"), seal=str(root / "seal.json"))


def run(job: Job, stopped: Callable[[], bool] = lambda: False) -> list[Event]:
    """Return the job's events, of which the last, and no other, says how it ended."""
    events = list(execute(job, CPU, stopped))
    for event in events:
        assert event_from_wire(json.loads(json.dumps(to_wire(event), allow_nan=False))) == event
    ends = [isinstance(event, LastEvent) for event in events]
    assert ends == [False] * (len(events) - 1) + [True]
    return events


def result(job: Job) -> Result:
    last = run(job)[-1]
    assert isinstance(last, Result), last
    return last


def failure(job: Job, kind: str = "ArtifactError") -> str:
    """Return the reason, one line, why the job fails with an error of this class."""
    last = run(job)[-1]
    assert isinstance(last, Failed)
    assert last.kind == kind
    assert "\n" not in last.reason
    return last.reason


@pytest.fixture(autouse=True)
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_kernels_out(monkeypatch)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Ground:
    return Ground.prepare(tmp_path_factory.mktemp("prepared") / "runs")


@pytest.fixture
def ready(prepared: Ground, tmp_path) -> Ground:
    """A copy that a test may damage."""
    shutil.copytree(prepared.root, tmp_path / "runs")
    return replace(prepared, root=tmp_path / "runs")


def flip(path: Path, place: int = -3) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def checkpoint(ready: Ground, name: str = "run") -> dict[str, Tensor]:
    return map_tensors(RunLayout(ready.root / name).checkpoint)


class StopAfter:
    """Says to stop once it was asked `steps` times."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


# Data and teacher.


def test_data_are_prepared_once(prepared: Ground) -> None:
    job = PrepareJob(protocol=prepared.protocol, root=str(prepared.root))
    again = result(job)
    assert again["dataset"] == prepared.dataset
    assert again["classes"] == list("0123456789")
    assert sum(again["counts"]["train"]) == 60
    assert is_finished(prepared.layout.dataset(prepared.dataset))


def test_preparing_states_how_far_it_is(tmp_path) -> None:
    job = PrepareJob(protocol=protocol(image_size=9), root=str(tmp_path))
    *said, _ = run(job)
    progress = [(event.done, event.total) for event in said]
    assert progress[-1] == (3 * 1797, 3 * 1797)  # read, digested and written
    assert all(one < other for one, other in pairwise(progress))


def test_the_teacher_is_found_the_second_time(prepared: Ground) -> None:
    first = read_manifest(prepared.layout.teacher(prepared.teachers[0]), "teacher")
    events = run(prepared.job(TeacherJob))
    assert history(events) == []
    assert events[-1]["found"]
    assert events[-1]["teacher"] == prepared.teachers[0]
    assert read_manifest(first.folder, "teacher") == first


def test_the_teacher_is_fine_tuned_and_measured_on_validation(ready: Ground) -> None:
    shutil.rmtree(ready.root / "cache" / "teachers")
    *said, last = run(ready.job(TeacherJob))
    assert [metrics.epoch for metrics in history(said)] == [1, 2]
    assert {event.total for event in said} == {2}
    assert not last["found"]
    network = load_teacher(ready.job(TeacherJob))
    validation = open_part(ready.layout.dataset(ready.dataset), "validation")
    found = evaluate(predict(network, validation), validation.labels)
    for name in ("accuracy", "nll", "ece"):
        assert last[name] == pytest.approx(found[name])
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert last["model"] == TEACHER


def change_images(ready: Ground, part: str) -> None:
    """Turn the images of one part upside down, and their order too."""
    folder = ready.layout.dataset(ready.dataset)
    manifest = read_manifest(folder, "dataset")
    tensors = dict(load_file(folder / f"{part}.safetensors"))
    tensors["inputs"] = 255 - tensors["inputs"].flip(0)
    write_tensors(folder / f"{part}.safetensors", tensors)
    finish(folder, "dataset", manifest.identity, manifest.info)


def test_the_teacher_is_trained_on_the_training_split_alone(ready: Ground) -> None:
    def weights() -> str:
        folder = ready.layout.teacher(ready.teachers[0])
        return read_manifest(folder, "teacher").files["weights.safetensors"]

    before = weights()
    (ready.layout.dataset(ready.dataset) / "test.safetensors").unlink()
    change_images(ready, "validation")
    shutil.rmtree(ready.root / "cache" / "teachers")
    result(ready.job(TeacherJob))
    assert weights() == before
    change_images(ready, "train")
    shutil.rmtree(ready.root / "cache" / "teachers")
    result(ready.job(TeacherJob))
    assert weights() != before


def test_another_teacher_has_another_place(ready: Ground) -> None:
    other = result(ready.job(TeacherJob, protocol=protocol(teacher_lr=0.05)))
    assert other["teacher"] != ready.teachers[0]
    same = result(ready.job(TeacherJob, protocol=protocol(students=("resnet8",), margin=1.0)))
    assert same["teacher"] == ready.teachers[0]


def test_a_teacher_that_was_stopped_continues_and_comes_out_the_same(ready: Ground) -> None:
    folder = ready.layout.teacher(ready.teachers[0])
    whole = dict(map_tensors(folder / "weights.safetensors"))
    shutil.rmtree(folder)
    *said, last = run(ready.job(TeacherJob), StopAfter(5))  # amid the second epoch of three steps
    assert [metrics.epoch for metrics in history(said)] == [1]
    assert last == Stopped()
    assert not is_finished(folder)
    assert [each.epoch for each in history(run(ready.job(TeacherJob)))] == [1, 2]
    assert same_bits(dict(map_tensors(folder / "weights.safetensors")), whole)


def test_a_teacher_has_its_own_optimizer_and_no_average(ready: Ground) -> None:
    given = protocol(teacher_optimizer="adamw", teacher_lr=1e-3, ema=0.5)
    folder = fingerprint(teacher_identity(Tuning.of(given), ready.dataset))
    run(ready.job(TeacherJob, protocol=given), StopAfter(5))
    named = map_tensors(ready.layout.teacher_training(folder).checkpoint)
    assert {name.partition(".")[0] for name in named} == {"network", "optimizer"}
    assert {name.rpartition(".")[2] for name in named} >= {"exp_avg", "exp_avg_sq"}


def test_a_damaged_teacher_is_refused(ready: Ground) -> None:
    flip(ready.layout.teacher(ready.teachers[0]) / "weights.safetensors")
    assert "weights.safetensors differs from its manifest" in failure(ready.job(TeacherJob))


def test_weights_of_another_model_are_refused(ready: Ground) -> None:
    other = build(STUDENT, classes=10, inputs=square(), stem="cifar", seed=0)
    path = ready.layout.teacher(ready.teachers[0]) / "weights.safetensors"
    write_tensors(path, other.state_dict())
    with pytest.raises(ArtifactError, match=f"does not fit {TEACHER}: ") as raised:
        load_teacher(ready.job(TeacherJob))
    assert "\n" not in str(raised.value)


# The teacher cache.


def live_reading(ready: Ground, k: int) -> TeacherReading:
    """What the teacher says of the whole of view `k`, rendered here."""
    live = load_live_teacher(ready.job(TeacherJob), CPU)
    data = open_part(ready.layout.dataset(ready.dataset), "train")
    rows = view(view_seed(ready.protocol), k, data.values, ready.protocol.augment)
    images = render(data.values, rows)
    return live.read(k, torch.arange(len(data)), images, ready.protocol.tap_names)


def test_the_cache_is_begun_once_and_named_by_what_it_is_made_from(
    prepared: Ground, monkeypatch
) -> None:
    identity = read_manifest(prepared.layout.shards(prepared.shards[0]), "shards").identity
    weights = read_manifest(prepared.layout.teacher(prepared.teachers[0]), "teacher").files
    assert identity["teacher"] == weights["weights.safetensors"]
    assert identity["dataset"] == prepared.dataset
    assert identity["augment"] == "crop=1,flip,cutout=2"
    assert identity["taps"] == ["last1", "last2", "last3"]
    monkeypatch.setattr("workers.runners.caching.fit_projections", None)
    assert result(prepared.job(ProjectionJob))["shards"] == prepared.shards[0]


@pytest.mark.parametrize(
    "changes", [{"augment": "crop=1,flip"}, {"augment": "none"}, {"taps": ("last1",)}], ids=repr
)
def test_another_augmentation_or_other_taps_have_another_cache(
    ready: Ground, changes: dict[str, Any]
) -> None:
    other = result(ready.job(ProjectionJob, protocol=protocol(**changes)))["shards"]
    assert other != ready.shards[0]


def test_the_sizes_announced_are_those_on_disk(prepared: Ground) -> None:
    sizes = result(prepared.job(ProjectionJob))["sizes"]
    folder = view_folder(prepared.layout.shards(prepared.shards[0]), 0)
    tensors = map_tensors(folder / shards.READING)
    bytes_of = {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}
    assert sizes == {
        "logits": bytes_of["logits"],
        "features": sum(bytes_of.values()) - bytes_of["logits"],
    }


def keeping(ready: Ground, kept: str) -> Ground:
    """A cache with such logits, of two views, beside that of `ready`."""
    other = replace(ready, protocol=protocol(cache_logits=kept))
    other = replace(other, shards=(result(other.job(ProjectionJob))["shards"],))
    for k in (0, 1):
        result(other.shard(k))
    return other


@pytest.mark.parametrize("kept", ["float16", "top3"])
def test_a_cache_that_keeps_less_of_its_logits_has_the_size_announced_and_is_verified(
    ready: Ground, kept: str
) -> None:
    other = keeping(ready, kept)
    assert other.shards != ready.shards
    assert result(other.job(TeacherJob))["found"]
    sizes = result(other.job(ProjectionJob))["sizes"]
    assert sizes["logits"] == 60 * {"float16": 2 * 10, "top3": 3 * (2 + 2) + 4}[kept]
    path = view_folder(other.layout.shards(other.shards[0]), 0) / shards.READING
    assert 0 <= path.stat().st_size - sum(sizes.values()) < 2000  # the header
    verified = result(verify(other))
    assert verified["difference"] == 0
    exact = load_live_teacher(other.job(TeacherJob), CPU)
    cached = shards.CachedTeacher(path.parents[1], CPU, kept)
    assert torch.equal(cached.validation_logits, exact.validation_logits)
    error = verified["errors"]
    assert error["logit"] > 0
    assert all(0 < mean <= largest for mean, largest in error["kl"].values())
    nothing = {"logit": 0, "kl": {"1": [0, 0], "4": [0, 0], "10": [0, 0]}}
    assert result(verify(ready))["errors"] == nothing


@pytest.mark.parametrize("kept", ["float16", "top3"])
def test_a_cache_that_keeps_less_of_its_logits_trains_as_the_live_teacher_bit_for_bit(
    ready: Ground, kept: str
) -> None:
    other = keeping(ready, kept)
    result(other.train(HINT, "cached"))
    result(other.train(HINT, "logits", cache="logits"))
    result(other.train(HINT, "live", cache="none"))
    cached = checkpoint(other, "cached")
    assert same_bits(cached, checkpoint(other, "live"))
    assert same_bits(cached, checkpoint(other, "logits"))
    result(ready.train(HINT, "exact"))
    assert not same_bits(cached, checkpoint(other, "exact"))


def test_as_many_logits_as_classes_are_refused_with_the_data(tmp_path: Path) -> None:
    ground = Ground(tmp_path / "runs", protocol(cache_logits="top10"))
    said = failure(ground.job(PrepareJob), "ProtocolError")
    assert said.startswith("cache_logits must keep fewer logits than the 10 classes")


def test_projections_and_logits_are_those_of_the_teacher(prepared: Ground) -> None:
    folder = prepared.layout.shards(prepared.shards[0])
    network = load_teacher(prepared.job(TeacherJob))
    validation = open_part(prepared.layout.dataset(prepared.dataset), "validation")
    projections, logits = shards.read_projections(folder)
    assert torch.equal(logits, predict(network, validation))
    assert list(projections) == ["last1", "last2", "last3"]


@pytest.mark.parametrize("k", [0, 1])
def test_a_shard_is_the_reading_of_the_view_by_the_teacher(prepared: Ground, k: int) -> None:
    cached = shards.CachedTeacher(prepared.layout.shards(prepared.shards[0]), CPU)
    kept = cached.read(k, torch.arange(60), torch.empty(0), prepared.protocol.tap_names)
    fresh = live_reading(prepared, k)
    assert torch.equal(kept.logits, fresh.logits)
    for tap, reading in kept.taps.items():
        assert torch.equal(reading.features, fresh.taps[tap].features)
        assert torch.equal(reading.attention, fresh.taps[tap].attention)


def test_teacher_and_student_see_the_same_pixels(ready: Ground, monkeypatch) -> None:
    seen: dict[tuple[int, int], list[Tensor]] = {}
    read = LiveTeacher.read

    def spy(self: LiveTeacher, k: int, index: Tensor, images: Tensor, taps: Any) -> TeacherReading:
        for row, image in zip(index.tolist(), images, strict=True):
            seen.setdefault((k, row), []).append(image)
        return read(self, k, index, images, taps)

    monkeypatch.setattr(LiveTeacher, "read", spy)
    for k in (0, 1):
        result(ready.shard(k))
    result(ready.train(DISTILLED, cache="none"))
    both = [images for images in seen.values() if len(images) == 2]
    assert len(both) == 2 * 48  # three batches of 16 an epoch
    assert all(torch.equal(*images) for images in both)


def test_a_shard_of_logits_alone_holds_no_features(ready: Ground) -> None:
    folder = ready.layout.shards(ready.shards[0])
    events = run(ready.shard(2, features=False))
    assert [event for event in events if isinstance(event, Progress)] == [
        Progress(done=60, total=60)
    ]
    assert cached_taps(folder, 2) == []
    assert missing_views(folder, 3, features=True) == [2]
    assert result(verify(ready, 2))["difference"] < 1e-5


def test_a_stopped_shard_leaves_nothing(ready: Ground) -> None:
    assert run(ready.shard(2), lambda: True) == [Stopped()]
    assert not view_folder(ready.layout.shards(ready.shards[0]), 2).exists()


def test_verifying_finds_no_difference_in_what_was_just_made(prepared: Ground) -> None:
    verified = result(verify(prepared, 1))
    assert verified["difference"] < 1e-3
    assert verified["rows"] == 20


def test_large_images_are_cached_in_smaller_chunks_on_a_cpu() -> None:
    sizes = [caching.chunk_size(square(3, size=size), CPU) for size in (32, 64, 128, 224, 1024)]
    assert sizes == [256, 256, 64, 20, 16]
    assert caching.chunk_size(square(3, size=224), torch.device("cuda")) == 256


@pytest.mark.parametrize(("value", "moved"), [(3.0, 0.0), (3.0, 0.01), (0.5, 0.01)])
def test_verifying_takes_neighbours_in_float16_for_equal(value: float, moved: float) -> None:
    kept = torch.full((2, 3), value).half()
    kept[0, 0] += moved
    towards = torch.tensor(10.0).half()
    fresh = torch.nextafter(torch.full((2, 3), value).half(), towards)
    found = float(caching._gap(fresh.float(), kept.float()))
    assert found > TOLERANCE if moved else found == 0


def test_verifying_finds_a_flipped_byte(ready: Ground) -> None:
    folder = view_folder(ready.layout.shards(ready.shards[0]), 0)
    flip(folder / shards.READING)
    assert "reading.safetensors differs from its manifest" in failure(verify(ready, 0))
    assert result(verify(ready, 1))["difference"] < 1e-3


@pytest.mark.parametrize("features", [True, False])
def test_verifying_finds_a_shard_of_other_crops(ready: Ground, monkeypatch, features: bool) -> None:
    """Of another view seed, under the name of this one: well-formed, and wrong."""
    with monkeypatch.context() as patch:
        patch.setattr("workers.runners.caching.view_seed", lambda given: 12345)
        result(ready.shard(0, features=features))
    assert result(verify(ready, 0))["difference"] > 0.05
    assert result(verify(ready, 1))["difference"] < 1e-3


# Training.


AVERAGED = protocol(optimizer="adamw", clip=0.5, ema=0.9)


@pytest.mark.parametrize("averaged", [False, True], ids=["usual", "averaged"])
@pytest.mark.parametrize("recipe", [PLAIN, HINT], ids=["plain", "hint"])
@pytest.mark.parametrize("steps", [1, 4])
def test_a_stopped_run_continues_as_if_it_had_not_been(
    ready: Ground, recipe: Recipe, steps: int, averaged: bool
) -> None:
    ready = replace(ready, protocol=AVERAGED) if averaged else ready
    *said, last = run(ready.train(recipe, "whole"))
    assert last == Result.of(test=None)
    assert [metrics.epoch for metrics in history(said)] == [1, 2]
    *cut, last = run(ready.train(recipe, "cut"), StopAfter(steps))
    assert last == Stopped()
    assert history(cut) == history(said)[: steps // 3]
    resumed = run(ready.train(recipe, "cut"))
    assert history(resumed) == history(said)
    assert same_bits(checkpoint(ready, "cut"), checkpoint(ready, "whole"))
    kept = {name.partition(".")[0] for name in checkpoint(ready, "cut")}
    assert ("average" in kept) == averaged


def test_a_finished_run_reports_its_epochs_again_without_training(
    ready: Ground, monkeypatch
) -> None:
    first = run(ready.train(PLAIN))
    monkeypatch.setattr("kd.training.loop._train_epoch", None)
    assert run(ready.train(PLAIN)) == first


@pytest.mark.parametrize(
    "change", ["damage", "another seed", "another recipe", "another horizon", "other views"]
)
def test_a_checkpoint_that_does_not_fit_is_reported_and_training_starts_again(
    ready: Ground, change: str
) -> None:
    other = {
        "damage": ready.train(HINT),
        "another seed": ready.train(HINT, seed=6),
        "another recipe": ready.train(PLAIN),
        "another horizon": ready.train(HINT, horizon=3),
        "other views": ready.train(HINT, views=[1, 0]),
    }
    run(other[change], StopAfter(4))
    if change == "damage":
        flip(RunLayout(ready.root / "run").checkpoint)
    note, *rest = run(ready.train(HINT))
    assert isinstance(note, Note)
    assert note.text.startswith("training starts again from its first epoch: ")
    assert history(rest) == history(run(ready.train(HINT, "whole")))
    assert same_bits(checkpoint(ready, "run"), checkpoint(ready, "whole"))


def test_a_run_is_decided_by_its_seed_recipe_and_views(ready: Ground) -> None:
    base = history(run(ready.train(HINT, "base")))
    assert history(run(ready.train(HINT, "again"))) == base
    for name, changes in {"seed": {"seed": 6}, "views": {"views": [1, 0]}}.items():
        assert history(run(ready.train(HINT, name, **changes))) != base


def test_the_seed_of_a_run_orders_its_batches(ready: Ground, monkeypatch) -> None:
    orders: dict[str, list[int]] = {"5": [], "6": []}
    read = LiveTeacher.read

    def spy(self: LiveTeacher, k: int, index: Tensor, images: Tensor, taps: Any) -> TeacherReading:
        seen.extend(index.tolist())
        return read(self, k, index, images, taps)

    monkeypatch.setattr(LiveTeacher, "read", spy)
    for seed, seen in orders.items():  # noqa: B007 (the spy fills it)
        result(ready.train(DISTILLED, seed, cache="none", seed=int(seed)))
    assert len(orders["5"]) == len(orders["6"]) == 2 * 48
    assert orders["5"] != orders["6"]


OWN_LOSS = """
def near(student, teacher, labels, temperature):
    deep = student.taps["last1"].mean((2, 3)).square().mean(1)
    gap = deep - teacher.taps["last1"].attention.mean((1, 2))
    return (student.logits - teacher.logits).square().mean() + gap.square().mean()


def of_numbers(student, teacher, labels, temperature):
    return student.logits.gather(1, labels[:, None]).mean()
"""


def own_loss(ready: Ground, function: str = "near") -> str:
    """Keep a file with a loss under the root; return its name in a protocol."""
    (ready.root / "mine.py").write_text(OWN_LOSS)
    pinned, files = pin_functions({"loss": f"{ready.root}/mine.py:{function}"})
    keep_own(ready.layout, files)
    name: str = pinned["loss"]
    return name


@pytest.mark.parametrize("loss", ["kl", "own"])
@pytest.mark.parametrize("cache", ["logits", "none"])
def test_the_live_teacher_trains_as_the_cache_does(ready: Ground, cache: str, loss: str) -> None:
    """But for rounding: the teacher sees batches of another size.

    A loss of the user's own reads taps without a feature loss.
    """
    recipe = HINT if loss == "kl" else replace(DISTILLED, soft_kind=own_loss(ready))
    assert isinstance(teacher_source(ready.train(recipe, cache=cache), CPU), LiveTeacher)
    cached = history(run(ready.train(recipe, "cached")))
    live = history(run(ready.train(recipe, "live", cache=cache)))
    for one, other in zip(cached, live, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-2)
        assert one.teacher_kl == pytest.approx(other.teacher_kl, rel=1e-1)


def test_a_loss_of_the_user_is_tried_out_at_the_taps_of_the_study(ready: Ground) -> None:
    def job(function: str = "near", augment: str = "none", **changes: Any) -> LossJob:
        with_loss = replace(ready.protocol, loss=own_loss(ready, function), augment=augment)
        return ready.job(LossJob, protocol=with_loss, **changes)

    result(job())
    assert (
        "reads the tap 'last1', which the study lacks: it has last2 (--taps) (mine.py"
        in failure(job(taps=("last2",)), "ProtocolError")
    )
    assert "unknown function of mine.py 'nera'; did you mean near?" in failure(
        job("nera", dataset=""), "ProtocolError"
    )
    result(job("of_numbers"))
    assert "of_numbers fails with the labels of mixed images" in failure(
        job("of_numbers", "flip,mixup"), "ProtocolError"
    )


def test_a_cached_run_needs_no_teacher_and_a_plain_one_no_shards(ready: Ground) -> None:
    expected = {recipe: history(run(ready.train(recipe))) for recipe in (HINT, PLAIN)}
    shutil.rmtree(ready.root / "cache" / "teachers")
    assert history(run(ready.train(HINT, "cached"))) == expected[HINT]
    logits = run(ready.train(DISTILLED, "logits", cache="logits"))
    assert isinstance(logits[-1], Result)
    for k in (0, 1):
        shutil.rmtree(view_folder(ready.layout.shards(ready.shards[0]), k))
    for cache in ("all", "logits", "none"):
        assert history(run(ready.train(PLAIN, cache, cache=cache))) == expected[PLAIN]
    assert all(metrics.agreement is not None for metrics in expected[PLAIN])
    assert "the teacher cache lacks view 0" in failure(ready.train(HINT, "fails"))


def test_search_and_costs_never_open_the_test_split(ready: Ground, monkeypatch) -> None:
    monkeypatch.setattr(measuring, "REPEATS", 2)
    folder = ready.layout.dataset(ready.dataset)
    (folder / "test.safetensors").unlink()
    for recipe in (PLAIN, HINT):
        assert result(ready.train(recipe, recipe.feature_kind))["test"] is None
    result(ready.job(StudentsJob, protocol=protocol(max_latency_ms=5.0)))
    result(ready.job(CostJob))
    assert not (ready.root / "seal.json").exists()
    assert not RunLayout(ready.root / "run").predictions.exists()
    assert "test.safetensors" in failure(confirm(ready, PLAIN))


def test_a_confirmation_breaks_the_seal_once_and_keeps_student_and_predictions(
    ready: Ground,
) -> None:
    found = result(confirm(ready, HINT))["test"]
    (opening,) = openings(ready.root / "seal.json")
    assert opening.purpose == "plain, replicate 0"
    kept = RunLayout(ready.root / "run")
    test = load_file(ready.layout.dataset(ready.dataset) / "test.safetensors")
    predictions = map_tensors(kept.predictions)
    assert torch.equal(predictions["labels"], test["labels"])
    assert found == {
        name: evaluate(predictions["logits"], test["labels"])[name]
        for name in ("accuracy", "nll", "ece")
    } | {"objective": found["accuracy"]}
    train = open_part(ready.layout.dataset(ready.dataset), "train")
    student = build(STUDENT, classes=10, inputs=train.inputs, stem="cifar", seed=0)
    student.load_state_dict(map_tensors(kept.weights))
    again = predict(student, replace(train, values=test["inputs"], labels=test["labels"]))
    assert torch.equal(again, predictions["logits"])


def test_the_average_is_what_is_tested_and_kept(ready: Ground) -> None:
    ready = replace(ready, protocol=AVERAGED)
    result(confirm(ready, PLAIN))
    kept, ended = dict(map_tensors(RunLayout(ready.root / "run").weights)), checkpoint(ready)
    of = {
        part: {name.removeprefix(f"{part}."): ended[name] for name in ended if part in name}
        for part in ("average", "network")
    }
    assert same_bits(kept, of["average"])
    assert not same_bits(kept, of["network"])


def test_confirmation_trains_as_the_search_does(ready: Ground) -> None:
    assert history(run(confirm(ready, HINT, "a"))) == history(run(ready.train(HINT, "b")))
    assert same_bits(checkpoint(ready, "a"), checkpoint(ready, "b"))


# The comparison.


def test_testing_the_teacher_is_recorded_and_keeps_its_predictions(ready: Ground) -> None:
    found = result(teacher_test(ready))
    assert [opening.purpose for opening in openings(ready.root / "seal.json")] == ["the teacher"]
    kept = map_tensors(ready.root / "teacher" / "test.safetensors")
    for name in ("accuracy", "nll", "ece"):
        assert found[name] == evaluate(kept["logits"], kept["labels"])[name]
    assert (ready.root / "teacher" / "result.json").exists()


def test_costs_are_those_of_teacher_and_student(ready: Ground, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(measuring, "REPEATS", 4)
    costs = Costs.from_json(result(ready.job(CostJob))["costs"])
    assert (costs.device, costs.threads) == ("cpu", 1)
    assert {name: cost.model for name, cost in costs.models.items()} == {
        "teacher": TEACHER,
        "distilled": STUDENT,
        "plain": STUDENT,
    }
    for cost in costs.models.values():
        network = build(cost.model, classes=10, inputs=square(), stem="cifar", seed=0)
        assert cost.parameters == sum(each.numel() for each in network.parameters())
        assert cost.macs > cost.parameters
        assert cost.bytes > 4 * cost.parameters
        assert [each.batch_size for each in cost.latency] == [1, 256]
        assert all(0 < each.median_ms <= each.p95_ms and each.repeats == 4 for each in cost.latency)
    teacher, distilled, plain = (costs.models[key] for key in ("teacher", "distilled", "plain"))
    assert (distilled.macs, distilled.bytes) == (plain.macs, plain.bytes)
    assert teacher.macs > 2 * plain.macs


SMALLER = "resnet8-w0.0625"
SEVERAL = {"students": (STUDENT, SMALLER)}


def test_costs_of_further_students_stand_under_their_names(ready: Ground, monkeypatch) -> None:
    monkeypatch.setattr(measuring, "REPEATS", 2)
    job = replace(ready.job(CostJob), protocol=protocol(**SEVERAL))
    models = Costs.from_json(result(job)["costs"]).models
    assert {name: cost.model for name, cost in models.items()} == {
        "teacher": TEACHER,
        "distilled": STUDENT,
        "plain": STUDENT,
        SMALLER: SMALLER,
    }
    assert models[SMALLER].parameters < models["plain"].parameters


def test_students_are_timed_only_where_their_time_is_limited(ready: Ground, monkeypatch) -> None:
    monkeypatch.setattr(measuring, "REPEATS", 2)
    for limit in (0.0, 5.0):
        given = protocol(**SEVERAL, max_params=1, max_latency_ms=limit)
        sizes = StudentSizes.from_json(result(ready.job(StudentsJob, protocol=given))["sizes"])
        assert (sizes.protocol, sizes.dataset) == (given.hash, ready.dataset)
        assert (sizes.device, sizes.threads) == ("cpu", 1)
        assert list(sizes.models) == [STUDENT, SMALLER]
        for name, size in sizes.models.items():
            network = build(name, classes=10, inputs=square(), stem="cifar", seed=0)
            assert size.parameters == sum(each.numel() for each in network.parameters())
            assert (size.latency_ms is not None) == (limit > 0)


def test_a_run_trains_the_student_of_its_recipe_with_adapters_that_fit(ready: Ground) -> None:
    job = replace(ready.train(replace(HINT, student=SMALLER)), protocol=protocol(**SEVERAL))
    job = replace(job, confirm="a student", seal=str(ready.root / "seal.json"))
    result(job)
    student = build(SMALLER, classes=10, inputs=square(), stem="cifar", seed=0)
    student.load_state_dict(load_file(RunLayout(ready.root / "run").weights))


# How jobs end.


def test_errors_meant_for_the_user_become_events(tmp_path) -> None:
    job = PrepareJob(protocol=protocol(dataset=f"folder:{tmp_path}/none"), root=str(tmp_path))
    assert "none" in failure(job, "DataError")


def test_what_the_machine_lacks_becomes_an_event(ready: Ground) -> None:
    (ready.root / "run").write_text("a file where the folder should be")
    assert "cannot be written" in failure(ready.train(PLAIN))


def test_divergence_has_its_own_last_event(ready: Ground) -> None:
    recipe = Recipe(lr=10.0, weight_decay=1.0)
    *said, last = run(ready.train(recipe, horizon=60))
    assert isinstance(last, Diverged)
    assert "not finite" in last.reason
    assert all(math.isfinite(metrics.loss) for metrics in history(said))


def test_a_bug_is_one_line_that_names_the_file_with_its_traceback(monkeypatch, prepared: Ground):
    def broken(job: Job, device: torch.device, stopped: Any) -> Iterator[Event]:
        raise RuntimeError("a\nbug" + 999 * "!")
        yield {}

    monkeypatch.setattr(training, "run_train", broken)
    (event,) = run(prepared.train(PLAIN))
    assert event.kind == "RuntimeError"
    found = re.fullmatch(r"a bug!{1,300}; the traceback is in (\S+)", event.reason)
    assert found
    assert Path(found[1]).parent == prepared.layout.root / "logs"
    kept = Path(found[1]).read_text()
    assert kept.startswith("Traceback (most recent call last):")
    assert "in broken" in kept


def test_a_job_that_is_stopped_at_once_reports_it(ready: Ground) -> None:
    for job in (ready.job(TeacherJob), ready.train(PLAIN)):
        assert run(job, lambda: True)[-1] == Stopped()


def test_a_job_runs_with_the_threads_of_its_protocol(prepared: Ground, monkeypatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    result(prepared.job(ProjectionJob))
    list(execute(replace(verify(prepared), protocol=protocol(threads=3)), CPU, lambda: False))
    assert asked == [1, 3]


# The wire.


def every_job() -> list[Job]:
    ready = Ground(Path("/runs"), protocol(taps=("last2", "last1")), "d", ("t",), ("s",))
    recipe = replace(HINT, temperature=Schedule(shape="step", initial=2.0, final=1, sharpness=0.1))
    return [
        ready.job(PrepareJob),
        ready.job(TeacherJob),
        ready.job(ProjectionJob),
        ready.shard(3, features=False),
        confirm(ready, recipe),
        ready.train(PLAIN),
        teacher_test(ready),
        ready.job(CostJob),
        ready.job(StudentsJob),
        verify(ready, 2),
        ready.job(ExportJob, weights="/runs/run", folder="/runs/export", accuracy=0.5, onnx=False),
        ready.job(KernelsJob),
        ready.job(ModelsJob),
        ready.job(LossJob),
        ready.job(TapsJob),
        ready.job(WeightsJob),
        ready.job(MachineJob),
        ready.job(ExamineJob, part="views", folder="/runs/a"),
    ]


@pytest.mark.parametrize("job", every_job(), ids=lambda job: type(job).__name__)
def test_a_job_survives_json(job: Job) -> None:
    received = job_from_wire(json.loads(json.dumps(to_wire(job), allow_nan=False)))
    assert received == job
    assert type(received) is type(job)
    assert received.layout == Layout(Path("/runs"))


@pytest.mark.parametrize("job", every_job(), ids=lambda job: type(job).__name__)
def test_ray_is_given_every_path_of_a_job_from_the_root_of_the_disk(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    text = json.dumps(to_wire(job))
    assert on_ray._absolute(json.loads(text.replace('"/runs', '"runs'))) == json.loads(text)


def test_every_kind_of_job_has_a_runner_and_is_tried_here() -> None:
    kinds = {type(job) for job in every_job()}
    assert kinds == set(JOBS.values()) - {Job}
    runners = {kind.runner for kind in kinds}
    assert len(runners) == len(kinds)
    for module, function in (runner.split(".") for runner in runners):
        assert inspect.isgeneratorfunction(
            getattr(importlib.import_module(f"workers.runners.{module}"), function)
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "Result"},
        {"type": None},
        {"type": []},
        {"seed": "5"},
        {"views": [0.5]},
        {"more": 1},
    ],
    ids=repr,
)
def test_a_message_that_is_not_a_job_is_refused(changes: dict[str, Any]) -> None:
    sent = {**to_wire(every_job()[4]), **changes}
    with pytest.raises(ProtocolError, match=r"a known type|(seed|views.0.) must be|'more' of"):
        job_from_wire(sent)
