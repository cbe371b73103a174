"""From the protocol to a filled teacher cache: the stages before the search."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from conductor.display import Display
from conductor.request import Request
from kd.names import parse_model
from kd.protocol import Protocol
from kd.training.history import FEW_OF_A_CLASS
from reports.wording import duration, percent, show_size, split_words
from storage.files.artifacts import is_finished, read_manifest
from storage.files.layout import Layout, view_folder
from workers.events import EpochDone, Event, Note, Progress, Result
from workers.jobs import KernelsJob, ModelsJob, PrepareJob, ProjectionJob, ShardJob, TeacherJob
from workers.pools.worker_pool import WorkerPool

CHECKS = 4  # shards that are compared with their checksums at once
DISK_SHARE = 0.9  # of the free disk that the cache may fill


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What the search starts from: fingerprints, and how much of the teacher is cached.

    Empty is what has not been prepared yet.
    """

    dataset: str
    teacher: str = ""
    shards: str = ""
    cache: str = ""
    kernels: str = ""  # what convolutions are computed with, in words; empty on an accelerator
    passed_over: str | None = None  # of a folder of images, in one sentence


class Preparation:
    """Runs the stages before the search; each finds what an earlier session has finished."""

    def __init__(
        self, request: Request, layout: Layout, workers: WorkerPool, display: Display
    ) -> None:
        self._request = request
        self._protocol: Protocol = request.protocol
        self._layout = layout
        self._workers = workers
        self._display = display
        self._root = str(layout.root)

    def run(self, data: Prepared, distils: bool, cache: str) -> Prepared:
        """Prepare teacher and shards; `cache` is what the study was begun with, empty if new."""
        dataset = data.dataset
        teacher = self._prepare_teacher(dataset)
        shards, sizes = self._begin_cache(dataset, teacher)
        mode = cache or self._cache_mode(sizes, shards, distils)
        self._fill_cache(dataset, teacher, shards, mode, sizes)
        return replace(data, teacher=teacher, shards=shards, cache=mode)

    def data(self) -> Prepared:
        """Prepare the data set."""
        folder = Path(self._request.data_dir) if self._request.data_dir else self._layout.downloads
        job = PrepareJob(protocol=self._protocol, root=self._root, data_dir=str(folder))
        with self._display.bar(f"data: {self._protocol.dataset}", 1) as bar:
            result = self._workers.run(job, lambda event: _move(bar, event))
        counts = {part: sum(classes) for part, classes in result["counts"].items()}
        self._display.say(
            f"data: {self._protocol.dataset}, {len(result['classes'])} classes, "
            f"{counts['train']:,} training, {counts['validation']:,} validation and "
            f"{counts['test']:,} sealed test images{self._few(counts['train'])}"
            f"{_fewest(result['classes'], result['counts'])}"
        )
        if result["official"]:
            self._display.say(f"data: {split_words(result['official'])}")
        passed_over = str(result["passed_over"])
        if passed_over:
            self._display.say(f"data: {passed_over}")
        return Prepared(dataset=str(result["dataset"]), passed_over=passed_over)

    def _few(self, count: int) -> str:
        """Say so where an epoch is one step, since a batch takes more images than there are."""
        size = self._protocol.batch_size
        return f"; a batch of {size} takes them all: one step an epoch" if count <= size else ""

    def kernels(self, dataset: str) -> str:
        """Have the kernels of the study's convolutions tried, once a kind of processor.

        Returns what workers compute with. Raises StudyError where every kernel is wrong.
        """
        job = KernelsJob(protocol=self._protocol, root=self._root, dataset=dataset)
        with self._display.bar("kernels", 1):
            result = self._workers.run(job, lambda event: None)
        for line in kernel_lines(result):
            self._display.say(line)
        return str(result["used"])

    def models(self, dataset: str) -> None:
        """Try out the models of the user's own, if there are any.

        Raises ProtocolError, in one line, for one that cannot be trained here.
        """
        names = (self._protocol.teacher, *self._protocol.students)
        if any(parse_model(name).digest for name in names):
            job = ModelsJob(protocol=self._protocol, root=self._root, dataset=dataset)
            self._workers.run(job, lambda event: None)

    def _prepare_teacher(self, dataset: str) -> str:
        job = TeacherJob(protocol=self._protocol, root=self._root, dataset=dataset)
        with self._display.bar(f"teacher: {self._protocol.teacher}", 1) as bar:
            result = self._workers.run(job, lambda event: self._hear_teacher(bar, event))
        how = "found" if result["found"] else f"trained in {duration(result['seconds'])}"
        self._display.say(
            f"teacher: {self._protocol.teacher}, {how}, "
            f"{percent(result['accuracy'], 1)} validation accuracy"
        )
        return str(result["teacher"])

    def _hear_teacher(self, bar: Callable[[int, int], None], event: Event) -> None:
        _move(bar, event)
        if isinstance(event, Note):
            self._display.say(f"teacher: {event.text}")
        if isinstance(event, EpochDone) and not self._display.is_live:
            accuracy = percent(event.metrics.accuracy, 1)
            self._display.say(
                f"teacher: epoch {event.metrics.epoch}/{event.total}, {accuracy} accuracy"
            )

    def _begin_cache(self, dataset: str, teacher: str) -> tuple[str, dict[str, int]]:
        job = ProjectionJob(
            protocol=self._protocol, root=self._root, dataset=dataset, teacher=teacher
        )
        result = self._workers.run(job, lambda event: None)
        return str(result["shards"]), dict(result["sizes"])

    def _cache_mode(self, sizes: dict[str, int], shards: str, distils: bool) -> str:
        """Choose how much to cache: what the budget and the disk hold. Plain arms need nothing."""
        if not distils:
            return "none"
        budget, views = self._request.cache_budget, self._protocol.view_count
        free = int(DISK_SHARE * shutil.disk_usage(self._layout.root).free)
        kept = sum(
            path.stat().st_size
            for k in range(views)
            for path in view_folder(self._layout.shards(shards), k).glob("*.safetensors")
        )
        room = min(budget, free + kept)
        everything = views * (sizes["logits"] + sizes["features"])
        if everything <= room:
            return "all"
        mode = "logits" if views * sizes["logits"] <= room else "none"
        live = "features come" if mode == "logits" else "everything comes"
        self._display.say(
            f"teacher cache: {show_size(everything)} for {views} views is more than the "
            f"{show_size(room)} of --cache-budget and disk; {live} from the live teacher"
        )
        return mode

    def _fill_cache(
        self, dataset: str, teacher: str, shards: str, mode: str, sizes: dict[str, int]
    ) -> None:
        """Make the shards that are missing, and say what the cache holds."""
        if mode == "none":
            return
        views, features = self._protocol.view_count, mode == "all"
        folder = self._layout.shards(shards)
        missing = [k for k in range(views) if not _has_view(folder, k, features)]
        size = views * (sizes["logits"] + (sizes["features"] if features else 0))
        if missing:
            self._make_shards(dataset, teacher, shards, missing, features)
        self._verify_shards(folder, sorted(set(range(views)) - set(missing)))
        found = f", {views - len(missing)} found" if len(missing) < views else ""
        self._display.say(f"teacher cache: {views} views, {show_size(size)}{found}")

    def _make_shards(
        self, dataset: str, teacher: str, shards: str, missing: list[int], features: bool
    ) -> None:
        jobs = {
            k: ShardJob(
                protocol=self._protocol,
                root=self._root,
                dataset=dataset,
                teacher=teacher,
                shards=shards,
                view=k,
                features=features,
            )
            for k in missing
        }
        with self._display.bar("teacher cache", len(missing)) as bar:
            for done, _ in enumerate(self._workers.run_all(jobs, lambda key, event: None), 1):
                bar(done, len(missing))

    def _verify_shards(self, folder: Path, found: list[int]) -> None:
        """Compare shards of earlier sessions with their checksums: trials map them unread.

        Raises ArtifactError for the first that differs.
        """
        if not found:
            return
        identity = read_manifest(folder, "shards").identity
        showing = self._display.bar("checking the teacher cache", len(found))
        with showing as bar, ThreadPoolExecutor(CHECKS) as threads:  # hashing lets others run
            checks = threads.map(lambda k: _verify_view(folder, k, identity), found)
            for done, _ in enumerate(checks, 1):
                bar(done, len(found))


def kernel_lines(result: Result) -> list[str]:
    """Return the line that a user should read about the kernels, where they are limited."""
    if not result["reason"]:
        return []
    return [f"kernels: limited to {result['limit']} instructions on this CPU: {result['reason']}"]


def _verify_view(folder: Path, k: int, identity: dict[str, Any]) -> None:
    read_manifest(view_folder(folder, k), "shard", {**identity, "view": k}).verify()


def _has_view(folder: Path, k: int, features: bool) -> bool:
    """Whether shard `k` is finished, and holds features if they are wanted."""
    place = view_folder(folder, k)
    return is_finished(place) and (not features or bool(read_manifest(place, "shard").info["taps"]))


def _fewest(classes: Sequence[str], counts: Mapping[str, Sequence[int]]) -> str:
    """Name the class with the fewest images where these are too few for a statement about it."""
    label = min(range(len(classes)), key=lambda one: counts["test"][one])
    train, validation, test = (counts[part][label] for part in ("train", "validation", "test"))
    if min(validation, test) >= FEW_OF_A_CLASS:
        return ""
    return f"; of class {classes[label]} only {train:,}, {validation:,} and {test:,}"


def _move(bar: Callable[[int, int], None], event: Event) -> None:
    """Move a bar by a progress or an epoch event."""
    if isinstance(event, Progress):
        bar(event.done, event.total)
    elif isinstance(event, EpochDone):
        bar(event.metrics.epoch, event.total)
