"""Epochs that ask the teacher cache against plain ones, and against those that ask the teacher.

A student and its images are made up: time depends on shapes alone. Validation is the same, and next
to nothing, on both sides. One thread, as workers have it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from conductor.command_line.presets import preset
from kd.data.examples import Examples
from kd.losses.adapters import Adapters
from kd.models.build import Network, build, tap_shapes
from kd.models.numerics import place
from kd.protocol import Protocol
from kd.recipe import Recipe, Schedule
from kd.training.evaluation import predict
from kd.training.loop import Plan, train
from kd.training.state import TrainingState
from kd.training.teacher import LiveTeacher, TeacherReading, TeacherSource, fit_projections
from storage.files import shards
from tests.benchmarks.harness import Figure, ratio
from tests.support.small import square

CPU = torch.device("cpu")
CLASSES = 10
TAPS = ("last1",)
VIEWS = (0, 1)  # so that each epoch opens another shard than the one before
CHUNK = 256  # images that the teacher reads at once when a shard is made

PLAIN = Recipe()
LOGITS = Recipe(
    soft_kind="kl",
    temperature=Schedule(shape="linear", initial=5.0, final=1.0),
    alpha=Schedule(shape="linear", initial=0.9, final=0.3),
)
HINT = replace(LOGITS, feature_kind="hint", feature_weight=1.0, feature_taps=TAPS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A teacher, a student, and the shape of an epoch."""

    teacher: str
    student: str
    size: int  # pixels on each side
    images: int
    batch: int
    stem: str = "cifar"
    channels: int = 3
    augment: str = "crop=4,flip"


SMALL = Pair(teacher="resnet20", student="resnet20", size=32, images=256, batch=128)
LARGE = Pair(
    teacher="resnet50", student="resnet18", size=32, images=256, batch=128, stem="imagenet"
)
LARGE_CIFAR = replace(LARGE, images=64, batch=64, stem="cifar")


def default_pair() -> Pair:
    """Return the pair of the default study, with as many steps an epoch as there."""
    protocol = Protocol(**preset("digits"))
    return Pair(
        teacher=protocol.teacher,
        student=protocol.student,
        size=protocol.image_size,
        images=14 * protocol.batch_size,
        batch=protocol.batch_size,
        channels=1,
        augment=protocol.augment,
    )


def figures(quick: bool) -> Iterator[Figure]:
    """Compare epochs with cached logits, and a cached hint, with plain ones; then live teachers."""
    torch.set_num_threads(1)
    yield from _cached("the default student", default_pair(), 1.10, quick, rounds=25)
    yield from _cached("resnet20, 32x32", SMALL, 1.05, quick, rounds=9)
    yield from _live("ImageNet stem", LARGE, 1.30, quick, rounds=7)
    yield from _live("CIFAR stem", LARGE_CIFAR, 1.60, quick, rounds=5)


def _cached(name: str, pair: Pair, goal: float, quick: bool, rounds: int) -> Iterator[Figure]:
    """Compare recipes that read the cache with one that does not."""
    with TemporaryDirectory() as folder:
        bench = Bench(shrunk(pair) if quick else pair, Path(folder))
        plain = bench.epoch(PLAIN, bench.cached)
        for what, recipe, most in (("logits", LOGITS, goal), ("hint", HINT, 1.15)):
            yield ratio(
                f"an epoch with cached {what} / a plain one, {name}",
                bench.epoch(recipe, bench.cached),
                plain,
                rounds=1 if quick else rounds,
                goal=most,
                note=bench.shape,
            )


def _live(name: str, pair: Pair, goal: float, quick: bool, rounds: int) -> Iterator[Figure]:
    """Compare one recipe, its readings from the live teacher and from the cache."""
    with TemporaryDirectory() as folder:
        bench = Bench(shrunk(pair) if quick else pair, Path(folder))
        yield ratio(
            f"an epoch with the live teacher / with its cache, ResNet50 to ResNet18, {name}, 32x32",
            bench.epoch(LOGITS, bench.live),
            bench.epoch(LOGITS, bench.cached),
            rounds=1 if quick else rounds,
            goal=goal,
            at_least=True,
            note=bench.shape,
        )


def shrunk(pair: Pair) -> Pair:
    return replace(pair, images=8, batch=8)


def random_images(count: int, channels: int, size: int) -> Examples:
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, size, size)
    return Examples(
        values=torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),
        labels=torch.randint(0, CLASSES, (count,), generator=generator),
        inputs=square(channels, size, deviation=0.25),
    )


class Bench:
    """A pair, its teacher live, and the cache of what it says of two views, on disk."""

    def __init__(self, pair: Pair, folder: Path) -> None:
        self.pair = pair
        self.data = random_images(pair.images, pair.channels, pair.size)
        self.validation = random_images(2, pair.channels, pair.size)
        teacher = self.network(pair.teacher)
        projections = fit_projections(teacher, self.data, TAPS)
        logits = predict(teacher, self.validation)
        self.live = LiveTeacher(teacher, projections, logits)
        shards.begin(folder, {}, projections, logits, {})
        for k in VIEWS:
            for _ in shards.write_shard(folder, k, len(self.data), self._readings(k)):
                pass
        self.cached = shards.CachedTeacher(folder, CPU)

    @property
    def shape(self) -> str:
        steps = self.pair.images // self.pair.batch
        return f"{steps} step{'s' * (steps > 1)} of {self.pair.batch} images, 1 thread"

    def network(self, name: str) -> Network:
        """Build a model for the images, in the layout that workers give it."""
        inputs, stem = self.data.inputs, self.pair.stem
        return place(build(name, classes=CLASSES, inputs=inputs, stem=stem, seed=0), CPU)

    def _readings(self, k: int) -> Iterator[TeacherReading]:
        pair, data = self.pair, self.data
        order = torch.arange(len(data)).split(CHUNK)
        batches = data.batches(order, data.view(0, k, pair.augment))
        for index, (images, _) in zip(order, batches, strict=True):
            yield self.live.read(k, index, images, TAPS)

    def epoch(self, recipe: Recipe, source: TeacherSource) -> Callable[[], object]:
        """Return an action that trains a student of its own for one more epoch."""
        student = self.network(self.pair.student)
        state = TrainingState.start(student, self._adapters(student, recipe), recipe)
        plan = Plan(
            epochs=100_000,  # more than are run: far from its end the rate is that of the warm-up
            batch_size=self.pair.batch,
            warmup=0.1,
            augment=self.pair.augment,
            view_seed=0,
            views=VIEWS,
            seed=0,
        )
        training = train(state, recipe, plan, self.data, self.validation, source)
        return lambda: next(training)

    def _adapters(self, student: Network, recipe: Recipe) -> Adapters:
        shapes = tap_shapes(student)
        widths = self.live.projections
        return Adapters(
            {tap: shapes[tap][0] for tap in recipe.feature_taps},
            {tap: widths[tap].vectors.shape[1] for tap in recipe.feature_taps},
            seed=0,
        )
