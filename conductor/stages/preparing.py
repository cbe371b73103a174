"""The stages before the search: models, data set, kernels, teacher, teacher cache."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from conductor.display import Display
from conductor.request import Request
from kd.names import parse_loss, parse_model
from kd.protocol import Protocol
from kd.training.history import FEW_OF_A_CLASS
from reports.wording import (
    duration,
    model_name,
    percent,
    show_size,
    split_words,
    tap_words,
)
from storage.files.layout import Layout, view_folder
from storage.files.shard_folders import missing_views, verify_shard
from workers.events import EpochDone, Event, Note, Progress, Result
from workers.jobs import (
    JobContext,
    KernelsJob,
    LossJob,
    ModelsJob,
    PrepareJob,
    ProjectionJob,
    ShardJob,
    TapsJob,
    TeacherJob,
    WeightsJob,
)
from workers.pools.worker_pool import WorkerPool

CHECKS = 4  # shards that are compared with their checksums at once
DISK_SHARE = 0.9  # of the free disk that the cache may fill


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared(JobContext):
    """What the search starts from: the context of its jobs, and what was found."""

    kernels: str = ""  # the convolution kernels in words; empty on an accelerator
    passed_over: str | None = None  # what of the data is not read, in words
    modules: dict[str, dict[str, str]] | None = None  # of each tap, as in `StudySettings.taps`
    classes: int = 0  # 0 before the data have been read


class Preparation:
    """Runs the stages before the search, and reuses the results of earlier sessions."""

    def __init__(
        self, request: Request, layout: Layout, workers: WorkerPool, display: Display
    ) -> None:
        self._request = request
        self._protocol: Protocol = request.protocol
        self._layout = layout
        self._workers = workers
        self._display = display

    def run(self, data: Prepared, distils: bool, cache: str) -> Prepared:
        """Prepare teacher and shards; `cache` is the recorded cache mode, empty for a new study."""
        places = range(len(self._protocol.teachers))
        data = replace(data, teachers=tuple(self._prepare_teacher(data, k) for k in places))
        begun = [self._workers.run(data.job(ProjectionJob, place=place)) for place in places]
        sizes = _sum(one["sizes"] for one in begun)
        data = replace(data, shards=tuple(str(one["shards"]) for one in begun))
        data = replace(data, cache=cache or self._cache_mode(sizes, data.shards, distils))
        self._fill_cache(data, sizes)
        return data

    def data(self) -> Prepared:
        """Prepare the data set."""
        context = self._context()
        job = context.job(PrepareJob)
        name = model_name(self._protocol.dataset)
        with self._display.bar(f"data: {name}", 1) as bar:
            result = self._workers.run(job, lambda event: _update(bar, event))
        counts = {part: sum(classes) for part, classes in result["counts"].items()}
        examples = "images" if result["inputs"]["type"] == "Images" else "examples"
        self._display.say(
            f"data: {name}, {len(result['classes'])} classes, "
            f"{counts['train']:,} training, {counts['validation']:,} validation and "
            f"{counts['test']:,} sealed test {examples}{self._few(counts['train'])}"
            f"{_fewest(result['classes'], result['counts'])}"
        )
        if result["official"]:
            self._display.say(f"data: {split_words(result['official'], result['origins'])}")
        if result["read_before"]:
            self._display.say(
                f"data: {name} was read before and is not called again; if what it reads has "
                "changed, name another --root"
            )
        for line in (*result["passed_over"], *filter(None, [result["streamed"]])):
            self._display.say(f"data: {line}")
        passed_over, count = "; ".join(result["passed_over"]), len(result["classes"])
        return replace(context, dataset=result["dataset"], passed_over=passed_over, classes=count)

    def _few(self, count: int) -> str:
        """Return a note if one batch holds all training images, so that an epoch is one step."""
        size = self._protocol.batch_size
        return f"; one batch of {size} holds them all: one step per epoch" if count <= size else ""

    def kernels(self, context: JobContext) -> str:
        """Test the kernels of the study's convolutions, once for each kind of processor.

        Returns the instruction set that workers use. Raises StudyError where every kernel is wrong.
        """
        with self._display.bar("kernels", 1):
            result = self._workers.run(context.job(KernelsJob))
        for line in kernel_lines(result):
            self._display.say(line)
        return str(result["used"])

    def models(self, context: JobContext | None = None) -> None:
        """Test the models that are not of the catalogue, if there are any.

        Without the `context` of the data set, only what needs no data: the user's files must be in
        the root by then. Raises ProtocolError, in one line, for a model that cannot be trained.
        """
        if not all(parse_model(name).in_catalogue for name in self._protocol.models):
            context = context or self._context()
            self._workers.run(context.job(ModelsJob))

    def loss(self, context: JobContext | None = None) -> None:
        """Try out a loss of the user's own, if there is one; `context` as for `models`.

        Raises ProtocolError, in one line, for a loss that cannot be trained with.
        """
        if self._protocol.loss and parse_loss(self._protocol.loss):
            context = context or self._context()
            self._workers.run(context.job(LossJob))

    def taps(self, data: Prepared, distils: bool) -> Prepared:
        """Find the taps that teachers and students have in common.

        Raises ProtocolError, in one line, for a tap of the protocol that a model lacks.
        """
        modules = self._workers.run(data.job(TapsJob))["taps"]
        known = all(parse_model(name).in_catalogue for name in self._protocol.models)
        if distils and not (modules and known):
            left_out = "" if modules else "; feature losses are left out"
            self._display.say(f"taps: {tap_words(modules)}{left_out}")
        return replace(data, taps=tuple(modules), modules=modules)

    def weights(self, context: JobContext) -> None:
        """Load the weights that teacher and students start from, if any, and print what was loaded.

        Raises an error, in one line, for those that do not fit.
        """
        if {*self._protocol.teacher_weights, self._protocol.student_weights} != {"none"}:
            for line in self._workers.run(context.job(WeightsJob))["lines"]:
                self._display.say(line)

    def _context(self) -> Prepared:
        """Return the context of the first jobs."""
        return Prepared(protocol=self._protocol, root=str(self._layout.root))

    def _prepare_teacher(self, context: JobContext, place: int) -> str:
        job, name = context.job(TeacherJob, place=place), self._protocol.teachers[place]
        with self._display.bar(f"teacher: {name}", 1) as bar:
            result = self._workers.run(job, lambda event: self._on_teacher(bar, event))
        trained = f"trained in {duration(result['seconds'])}" if result["epochs"] else "as it is"
        how = "found" if result["found"] else trained
        self._display.say(
            f"teacher: {name}, {how}, {percent(result['accuracy'], 1)} validation accuracy"
        )
        return str(result["teacher"])

    def _on_teacher(self, bar: Callable[[int, int], None], event: Event) -> None:
        _update(bar, event)
        if isinstance(event, Note):
            self._display.say(f"teacher: {event.text}")
        if isinstance(event, EpochDone) and not self._display.is_live:
            accuracy = percent(event.metrics.accuracy, 1)
            self._display.say(
                f"teacher: epoch {event.metrics.epoch}/{event.total}, {accuracy} accuracy"
            )

    def _cache_mode(self, sizes: Counter[str], shards: Sequence[str], distils: bool) -> str:
        """Return how much to cache within budget and disk: all, logits, or none for plain arms."""
        if not distils:
            return "none"
        budget, views = self._request.cache_budget, self._protocol.view_count
        free = int(DISK_SHARE * shutil.disk_usage(self._layout.root).free)
        kept = sum(
            path.stat().st_size
            for one, k in product(shards, range(views))
            for path in view_folder(self._layout.shards(one), k).glob("*.safetensors")
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

    def _fill_cache(self, context: JobContext, sizes: Counter[str]) -> None:
        """Make the missing shards, and print the size of the cache."""
        if context.cache == "none":
            return
        views, features = self._protocol.view_count, context.cache == "all"
        folders = [self._layout.shards(shards) for shards in context.shards]
        everything = set(product(range(len(folders)), range(views)))
        missing = {
            (place, k)
            for place, folder in enumerate(folders)
            for k in missing_views(folder, views, features=features)
        }
        size = views * (sizes["logits"] + (sizes["features"] if features else 0))
        if missing:
            self._make_shards(context, sorted(missing), features)
        there = sorted(everything - missing)
        self._verify_shards([(folders[place], k) for place, k in there])
        each = f" of each of {len(folders)} teachers" if len(folders) > 1 else ""
        found = f", {len(there)} found" if there else ""
        self._display.say(f"teacher cache: {views} views{each}, {show_size(size)}{found}")

    def _make_shards(
        self, context: JobContext, missing: Sequence[tuple[int, int]], features: bool
    ) -> None:
        """Make the shards of these pairs of a teacher's place and a view."""
        jobs = {
            (place, k): context.job(ShardJob, place=place, view=k, features=features)
            for place, k in missing
        }
        with self._display.bar("teacher cache", len(missing)) as bar:
            for done, _ in enumerate(self._workers.run_all(jobs), 1):
                bar(done, len(missing))

    def _verify_shards(self, found: Sequence[tuple[Path, int]]) -> None:
        """Compare shards of earlier sessions with their checksums, which trials do not check.

        Raises ArtifactError for the first difference.
        """
        if not found:
            return
        showing = self._display.bar("checking the teacher cache", len(found))
        with (
            showing as bar,
            ThreadPoolExecutor(CHECKS) as threads,
        ):  # hashing releases the lock of the interpreter
            checks = threads.map(lambda one: verify_shard(*one), found)
            for done, _ in enumerate(checks, 1):
                bar(done, len(found))


def _sum(sizes: Iterable[Mapping[str, int]]) -> Counter[str]:
    """Return the bytes of a view of all teachers, by part."""
    total: Counter[str] = Counter()
    for one in sizes:
        total.update(one)
    return total


def kernel_lines(result: Result) -> list[str]:
    """Return a line for the user if the kernels are limited."""
    if not result["reason"]:
        return []
    return [f"kernels: limited to {result['limit']} instructions on this CPU: {result['reason']}"]


def _fewest(classes: Sequence[str], counts: Mapping[str, Sequence[int]]) -> str:
    """Name the class with the fewest images, if they are too few for a statement about it."""
    label = min(range(len(classes)), key=lambda label: counts["test"][label])
    train, validation, test = (counts[part][label] for part in ("train", "validation", "test"))
    if min(validation, test) >= FEW_OF_A_CLASS:
        return ""
    return f"; of class {classes[label]} only {train:,}, {validation:,} and {test:,}"


def _update(bar: Callable[[int, int], None], event: Event) -> None:
    """Update a bar from a progress or an epoch event."""
    if isinstance(event, Progress):
        bar(event.done, event.total)
    elif isinstance(event, EpochDone):
        bar(event.metrics.epoch, event.total)
