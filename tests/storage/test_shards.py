"""The teacher cache says what the teacher says, for the very study that it was made for."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kd.data.examples import Examples
from kd.data.views import render, view
from kd.errors import ArtifactError
from kd.models.taps import TapReading
from kd.training.teacher import LiveTeacher, TeacherReading
from storage.files import shards
from storage.files.artifacts import (
    MANIFEST,
    finish,
    is_finished,
    read_json,
    read_manifest,
    write_json,
)
from storage.files.layout import view_folder
from storage.files.shard_folders import cached_taps, missing_views, verify_shard
from storage.files.shards import CachedTeacher
from storage.files.tensors import map_tensors, write_tensors
from tests.support.shards import fill_shard
from tests.support.small import AUGMENT, LOGITS_KEPT, TAPS, labelled, teacher

IDENTITY: dict[str, Any] = {"teacher": "w", "dataset": "d", "view_seed": 3, "taps": list(TAPS)}
CPU = torch.device("cpu")
DATA = labelled(24)
SIZES = {"logits": 288, "features": 1000}


@pytest.fixture(scope="module")
def live() -> LiveTeacher:
    return teacher(DATA, labelled(12, seed=1))


def images_of(data: Examples, k: int, index: torch.Tensor) -> torch.Tensor:
    rows = view(3, k, data.values, AUGMENT).at(index)
    return render(data.values[index], rows)


def readings(live: LiveTeacher, k: int, taps: Sequence[str] = TAPS) -> list[TeacherReading]:
    """What the teacher says of view `k`, in chunks of 10, 10 and 4 rows."""
    return [
        live.read(k, index, images_of(DATA, k, index), taps) for index in torch.arange(24).split(10)
    ]


def begin(folder: Path, live: LiveTeacher, **changes: Any) -> Path:
    identity = {**IDENTITY, **changes}
    shards.begin(folder, identity, live.projections, live.validation_logits, SIZES)
    return folder


@pytest.fixture
def cache(tmp_path, live: LiveTeacher) -> Path:
    """A cache of two views."""
    folder = begin(tmp_path / "shards", live)
    for k in (0, 1):
        fill_shard(folder, k, readings(live, k))
    return folder


def assert_alike(cached: TeacherReading, fresh: TeacherReading) -> None:
    """Bit for bit: a live reading has been through float16 too."""
    assert torch.equal(cached.logits, fresh.logits)
    assert cached.taps.keys() == fresh.taps.keys()
    for tap, kept in cached.taps.items():
        assert torch.equal(kept.features, fresh.taps[tap].features)
        assert torch.equal(kept.attention, fresh.taps[tap].attention)
        assert kept.variance == fresh.taps[tap].variance
        assert kept.features.dtype == kept.attention.dtype == torch.float32


@pytest.mark.parametrize("kept", LOGITS_KEPT)
def test_whatever_is_kept_of_logits_a_shard_reads_as_the_live_teacher_bit_by_bit(
    tmp_path: Path, live: LiveTeacher, kept: str
) -> None:
    folder = begin(tmp_path / "shards", live)
    fill_shard(folder, 0, readings(live, 0), kept)
    rounded = LiveTeacher(live.network, live.projections, live.validation_logits, kept)
    cached = CachedTeacher(folder, CPU, kept)
    for index, fresh in zip(torch.arange(24).split(10), readings(rounded, 0), strict=True):
        assert_alike(cached.read(0, index, torch.empty(0), TAPS), fresh)
    index = torch.tensor([17, 3, 3, 20])
    fresh = rounded.read(0, index, images_of(DATA, 0, index), ())
    assert_alike(cached.read(0, index, torch.empty(0), ()), fresh)
    assert torch.equal(cached.validation_logits, live.validation_logits)  # exact
    exact = live.read(0, index, images_of(DATA, 0, index), ())
    assert torch.equal(fresh.logits, exact.logits) == (kept == "float32")


def test_the_last_of_as_many_classes_as_a_number_of_16_bits_counts_is_read(tmp_path: Path) -> None:
    classes = 2**15
    logits = torch.zeros(2, classes)
    logits[:, -1] = 1
    shards.begin(tmp_path / "shards", IDENTITY, {}, logits, SIZES)
    fill_shard(tmp_path / "shards", 0, [TeacherReading(logits, {})], "top2")
    cached = CachedTeacher(tmp_path / "shards", CPU, "top2")
    read = cached.read(0, torch.arange(2), torch.empty(0), ()).logits
    assert read.argmax(1).tolist() == [classes - 1] * 2


def test_a_cache_is_not_read_as_one_that_keeps_its_logits_otherwise(
    tmp_path: Path, live: LiveTeacher
) -> None:
    folder = begin(tmp_path / "shards", live)
    for k, kept in enumerate(LOGITS_KEPT):
        fill_shard(folder, k, readings(live, k), kept)
        for other in {*LOGITS_KEPT, "top1"} - {kept}:
            with pytest.raises(ArtifactError, match=r"has logits.* of a wrong dtype|does not fit"):
                CachedTeacher(folder, CPU, other).read(k, torch.arange(2), torch.empty(0), ())


@pytest.mark.parametrize("k", [0, 1])
def test_a_shard_reads_as_the_live_teacher_bit_by_bit(
    cache: Path, live: LiveTeacher, k: int
) -> None:
    cached = CachedTeacher(cache, CPU)
    for index, fresh in zip(torch.arange(24).split(10), readings(live, k), strict=True):
        assert_alike(cached.read(k, index, torch.empty(0), TAPS), fresh)


def test_rows_come_in_the_requested_order(cache: Path, live: LiveTeacher) -> None:
    cached = CachedTeacher(cache, CPU)
    whole = cached.read(1, torch.arange(24), torch.empty(0), ["last2"])
    index = torch.tensor([17, 3, 3, 20])
    some = cached.read(1, index, torch.empty(0), ["last2"])
    assert torch.equal(some.logits, whole.logits[index])
    assert torch.equal(some.taps["last2"].features, whole.taps["last2"].features[index])
    assert torch.equal(some.taps["last2"].attention, whole.taps["last2"].attention[index])
    assert list(some.taps) == ["last2"]


def test_views_may_be_read_in_any_order(cache: Path, live: LiveTeacher) -> None:
    cached, index = CachedTeacher(cache, CPU), torch.arange(10)
    for k in (1, 0, 0, 1):
        fresh = live.read(k, index, images_of(DATA, k, index), ())
        assert torch.equal(cached.read(k, index, torch.empty(0), ()).logits, fresh.logits)


def test_logits_are_kept_in_single_and_features_in_half_precision(cache: Path) -> None:
    tensors = map_tensors(view_folder(cache, 0) / shards.READING)
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    assert dtypes.pop("logits") == torch.float32
    assert set(dtypes) == {f"{tap}.{part}" for tap in TAPS for part in ("features", "attention")}
    assert set(dtypes.values()) == {torch.float16}
    assert all(len(tensor) == 24 for tensor in tensors.values())


def test_projections_and_validation_logits_survive_the_disk(cache: Path, live: LiveTeacher) -> None:
    projections, logits = shards.read_projections(cache)
    assert torch.equal(logits, live.validation_logits)
    assert torch.equal(CachedTeacher(cache, CPU).validation_logits, live.validation_logits)
    assert set(projections) == set(TAPS)
    for tap, kept in projections.items():
        made = live.projections[tap]
        assert torch.equal(kept.vectors, made.vectors)
        figures = (kept.scale, kept.variance, kept.energy)
        assert figures == (made.scale, made.variance, made.energy)


# Filling.


def test_an_interrupted_fill_continues_where_it_was(tmp_path, live: LiveTeacher) -> None:
    folder = begin(tmp_path / "shards", live)
    assert missing_views(folder, 3, features=True) == [0, 1, 2]
    fill_shard(folder, 1, readings(live, 1))
    write_tensors(view_folder(folder, 2) / shards.READING, {"logits": torch.zeros(24, 3)})
    assert missing_views(folder, 3, features=True) == [0, 2]  # 2 has no manifest yet
    for k in missing_views(folder, 3, features=True):
        fill_shard(folder, k, readings(live, k))
    assert missing_views(folder, 3, features=True) == []
    assert missing_views(folder, 4, features=False) == [3]


def test_a_shard_of_logits_alone_is_filled_up_when_features_are_wanted(
    tmp_path, live: LiveTeacher
) -> None:
    folder = begin(tmp_path / "shards", live)
    fill_shard(folder, 0, readings(live, 0, ()))
    assert missing_views(folder, 1, features=False) == []
    assert missing_views(folder, 1, features=True) == [0]
    assert cached_taps(folder, 0) == []
    index = torch.arange(10)
    reading = CachedTeacher(folder, CPU).read(0, index, torch.empty(0), ())
    assert torch.equal(reading.logits, readings(live, 0)[0].logits)

    manifest = view_folder(folder, 0) / MANIFEST
    before = manifest.read_bytes()
    fill_shard(folder, 0, readings(live, 0))
    after = manifest.read_bytes()
    manifest.write_bytes(before)  # as another study finds it meanwhile, or this one after a kill
    reading = CachedTeacher(folder, CPU).read(0, index, torch.empty(0), ())
    assert torch.equal(reading.logits, readings(live, 0)[0].logits)
    assert missing_views(folder, 1, features=True) == [0]

    manifest.write_bytes(after)
    assert missing_views(folder, 1, features=True) == []
    assert cached_taps(folder, 0) == list(TAPS)
    verify_shard(folder, 0)
    reading = CachedTeacher(folder, CPU).read(0, index, torch.empty(0), TAPS)
    assert_alike(reading, readings(live, 0)[0])


def broken(reading: TeacherReading, part: str) -> TeacherReading:
    """The reading with one value that float16 cannot hold, or that is none."""
    if part == "logits":
        return replace(reading, logits=reading.logits.index_fill(0, torch.tensor(0), torch.nan))
    kept: TapReading = reading.taps["last2"]
    value = torch.full_like(getattr(kept, part), 1e6)
    return replace(reading, taps={**reading.taps, "last2": replace(kept, **{part: value})})


@pytest.mark.parametrize("part", ["logits", "features", "attention"])
def test_values_that_are_not_finite_are_refused(tmp_path, live: LiveTeacher, part: str) -> None:
    folder = begin(tmp_path / "shards", live)
    first, *others = readings(live, 5)
    name = part if part == "logits" else f"last2.{part}"
    with pytest.raises(ArtifactError, match=rf"the teacher's {name} of view 5 are not all finite"):
        fill_shard(folder, 5, [first, broken(others[0], part), *others[1:]])
    assert not is_finished(view_folder(folder, 5))


@pytest.mark.parametrize("kept", ["float16", "top2"])
def test_logits_that_float16_cannot_hold_are_refused(
    tmp_path, live: LiveTeacher, kept: str
) -> None:
    """Those of the validation split too, which stand for the live teacher's."""
    [first, *_] = chunks = readings(live, 0)
    large = replace(first, logits=first.logits.index_fill(1, torch.tensor(1), 70_000.0))
    folder = begin(tmp_path / "shards", live)
    fill_shard(folder, 0, [large, *chunks[1:]])
    with pytest.raises(ArtifactError) as raised:
        fill_shard(folder, 1, [large, *chunks[1:]], kept)
    assert str(raised.value) == (
        "the teacher's logits of view 1 are not all finite; train it with a smaller --teacher-lr, "
        "or use --cache-logits float32, since float16 ends at 65504"
    )
    with pytest.raises(ArtifactError, match=r"^the teacher's logits of the validation split are"):
        shards.begin(tmp_path / "other", IDENTITY, live.projections, large.logits, SIZES, kept)


# Refusing.


@pytest.mark.parametrize(
    ("field", "value"),
    [("teacher", "other"), ("dataset", "other"), ("view_seed", 4), ("taps", ["last1"])],
)
def test_a_shard_made_for_something_else_is_refused_with_the_field_named(
    tmp_path, cache: Path, live: LiveTeacher, field: str, value: Any
) -> None:
    other = begin(tmp_path / "other", live, **{field: value})
    shutil.copytree(view_folder(cache, 0), view_folder(other, 0))
    for read in (
        lambda: CachedTeacher(other, CPU).read(0, torch.arange(2), torch.empty(0), ()),
        lambda: verify_shard(other, 0),
    ):
        with pytest.raises(ArtifactError, match=f"was made for another {field}: "):
            read()


def test_a_shard_of_another_view_is_refused(cache: Path) -> None:
    shutil.move(view_folder(cache, 1), view_folder(cache, 7))
    with pytest.raises(ArtifactError, match="was made for another view: "):
        CachedTeacher(cache, CPU).read(7, torch.arange(2), torch.empty(0), ())


def test_a_view_that_is_not_there_is_named(cache: Path) -> None:
    with pytest.raises(ArtifactError, match="the teacher cache lacks view 2: "):
        CachedTeacher(cache, CPU).read(2, torch.arange(2), torch.empty(0), ())


def test_a_folder_that_is_no_cache_is_refused(tmp_path, cache: Path) -> None:
    with pytest.raises(ArtifactError, match=f"{MANIFEST} is missing"):
        CachedTeacher(tmp_path / "none", CPU)
    with pytest.raises(ArtifactError, match="holds a shard, not a shards"):
        CachedTeacher(view_folder(cache, 0), CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda taps: taps.pop("last2"), r"the projections in .* do not match its manifest"),
        (lambda taps: taps["last2"].pop("scale"), "lacks figures of its projections"),
    ],
)
def test_a_manifest_of_other_projections_is_refused(
    cache: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    content = read_json(cache / MANIFEST)
    change(content["info"]["taps"])
    write_json(cache / MANIFEST, content)
    with pytest.raises(ArtifactError, match=message):
        shards.read_projections(cache)


@pytest.mark.parametrize("name", [shards.PROJECTIONS, shards.VALIDATION])
def test_a_missing_file_of_the_cache_or_one_of_another_dtype_is_named(
    cache: Path, name: str
) -> None:
    tensors = {key: tensor.double() for key, tensor in map_tensors(cache / name).items()}
    write_tensors(cache / name, tensors)
    with pytest.raises(ArtifactError, match=f"{name} has .* of a wrong dtype"):
        shards.read_projections(cache)
    (cache / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} cannot be read"):
        shards.read_projections(cache)


def rewrite(folder: Path, k: int, change: Callable[[dict[str, Tensor]], None]) -> None:
    """Change the tensors of a shard, and make its manifest anew: well-formed, and wrong."""
    place = view_folder(folder, k)
    tensors = {name: tensor.clone() for name, tensor in map_tensors(place / shards.READING).items()}
    change(tensors)
    write_tensors(place / shards.READING, tensors)
    manifest = read_manifest(place, "shard")
    finish(place, "shard", manifest.identity, manifest.info)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("last2.features"), "has last2.features of a wrong dtype"),
        (
            lambda tensors: tensors.update(logits=tensors["logits"].half()),
            "has logits of a wrong dtype or shape",
        ),
        (
            lambda tensors: tensors.update({"last1.features": tensors["last1.features"][:, 1:]}),
            "does not fit its projections",
        ),
        (lambda tensors: tensors.update(logits=tensors["logits"][:, 1:]), "does not fit"),
        (lambda tensors: tensors.update(logits=tensors["logits"][1:]), "does not fit"),
    ],
)
def test_a_shard_of_other_tensors_is_refused(
    cache: Path, change: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    rewrite(cache, 1, change)
    cached = CachedTeacher(cache, CPU)
    cached.read(0, torch.arange(2), torch.empty(0), TAPS)
    for _ in range(2):  # the second time too
        with pytest.raises(ArtifactError, match=message):
            cached.read(1, torch.arange(2), torch.empty(0), TAPS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("logits.rest"), "has logits.rest of a wrong dtype"),
        (lambda tensors: tensors["logits.classes"].add_(1), "does not fit"),
        (lambda tensors: tensors["logits.classes"].sub_(3), "does not fit"),
        (lambda tensors: tensors.update(logits=tensors["logits"][:, 1:]), "does not fit"),
        (
            lambda tensors: tensors.update({"logits.rest": tensors["logits.rest"].half()}),
            "has logits.rest of a wrong dtype",
        ),
    ],
)
def test_a_shard_of_other_tensors_of_its_largest_logits_is_refused(
    tmp_path, live: LiveTeacher, change: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    folder = begin(tmp_path / "shards", live)
    fill_shard(folder, 0, readings(live, 0), "top2")
    rewrite(folder, 0, change)
    with pytest.raises(ArtifactError, match=message):
        CachedTeacher(folder, CPU, "top2").read(0, torch.arange(2), torch.empty(0), ())


def test_a_shard_of_fewer_rows_is_refused(cache: Path) -> None:
    def shorten(tensors: dict[str, Tensor]) -> None:
        tensors.update({name: tensor[:20] for name, tensor in tensors.items()})

    rewrite(cache, 0, shorten)
    cached = CachedTeacher(cache, CPU)
    cached.read(0, torch.arange(20), torch.empty(0), TAPS)
    with pytest.raises(ArtifactError, match="holds fewer rows than the training split"):
        cached.read(0, torch.arange(24), torch.empty(0), TAPS)


# Verifying.


def test_a_flipped_byte_is_found(cache: Path) -> None:
    verify_shard(cache, 0)
    verify_shard(cache, 1)
    path = view_folder(cache, 1) / shards.READING
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    verify_shard(cache, 0)
    with pytest.raises(ArtifactError, match=r"reading.safetensors differs from its manifest"):
        verify_shard(cache, 1)


def test_folders_of_views_sort_by_number(tmp_path) -> None:
    names = [view_folder(tmp_path, k).name for k in (0, 9, 10, 12345)]
    assert names == ["view-00000", "view-00009", "view-00010", "view-12345"]
