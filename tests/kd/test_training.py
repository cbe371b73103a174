"""Training does what the recipe and the plan say, all of it, and goes on bit by bit."""

import dataclasses
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from kd.data.examples import Examples
from kd.data.views import render, view
from kd.errors import ArtifactError, DivergenceError
from kd.losses import features
from kd.losses.adapters import Adapters
from kd.models.build import Network
from kd.names import FEATURE_LOSSES, LOGIT_LOSSES, OPTIMIZERS
from kd.recipe import SHAPES, SHARP_SHAPES, Recipe, Schedule
from kd.training.evaluation import evaluate, predict
from kd.training.history import EpochMetrics
from kd.training.loop import Plan, _order, train
from kd.training.scoring import objective
from kd.training.state import TrainingState
from kd.training.teacher import LiveTeacher, TeacherReading, fit_projections
from search_spaces import SPACES
from search_spaces.space import load_space
from storage.files.checkpoints import read_checkpoint, write_checkpoint
from tests.support.small import (
    AUGMENT,
    CLASSES,
    DISTILLED,
    PLAIN,
    STUDENT,
    TAPS,
    TEACHER,
    begin,
    copied,
    labelled,
    network,
    plan,
    same_bits,
    teacher,
)

HINT = replace(DISTILLED, feature_kind="hint", feature_weight=0.5, feature_taps=("last1", "last2"))
SIMILARITY = replace(HINT, feature_kind="similarity", feature_taps=("last2",))
VID = dataclasses.replace(HINT, feature_kind="vid")
KINDS = {"plain": PLAIN, "hint": HINT, "similarity": SIMILARITY, "vid": VID}

SOFT_KINDS, FEATURE_KINDS = ("none", *LOGIT_LOSSES.names), ("none", *FEATURE_LOSSES.names)

DATA = labelled(24)
VALIDATION = labelled(12, seed=1)


@pytest.fixture(scope="module")
def source() -> LiveTeacher:
    return teacher(DATA, VALIDATION)


class Spy:
    """A teacher source that keeps what it was asked, and may change what it says."""

    def __init__(
        self,
        source: LiveTeacher,
        change: Callable[[int, TeacherReading], TeacherReading] | None = None,
    ) -> None:
        self.source, self.change = source, change
        self.validation_logits = source.validation_logits
        self.views: list[int] = []
        self.index: list[Tensor] = []
        self.images: list[Tensor] = []

    def read(self, view: int, index: Tensor, images: Tensor, taps: Sequence[str]) -> TeacherReading:
        self.views.append(view)
        self.index.append(index)
        self.images.append(images)
        reading = self.source.read(view, index, images, taps)
        return self.change(len(self.views), reading) if self.change else reading


def run(
    state: TrainingState, recipe: Recipe, given: Plan, source: Any, **more: Any
) -> Iterator[EpochMetrics]:
    return train(state, recipe, given, DATA, VALIDATION, source, **more)


def trained(recipe: Recipe, given: Plan, source: Any, *, live: LiveTeacher) -> TrainingState:
    state = begin(recipe, live)
    list(run(state, recipe, given, source))
    return state


def timeless(history: Sequence[EpochMetrics]) -> list[EpochMetrics]:
    return [replace(metrics, seconds=0.0) for metrics in history]


# The loss of a step, and what the step does.


def one_batch(images: Examples, given: Plan) -> Tensor:
    """The whole training set as view 0 shows it."""
    return render(images.values, view(given.view_seed, 0, images.values, given.augment))


@pytest.mark.parametrize("recipe", [PLAIN, DISTILLED, HINT], ids=["plain", "logits", "hint"])
def test_the_loss_weighs_hard_soft_and_feature_terms(recipe: Recipe, source: LiveTeacher) -> None:
    recipe = replace(recipe, label_smoothing=0.1)
    given = plan(epochs=1, batch_size=24)  # one step, at progress 0
    state = begin(recipe, source)
    images = one_batch(DATA, given)
    logits, maps = begin(recipe, source).network.forward_taps(images, recipe.feature_taps)
    reading = source.read(0, torch.arange(24), images, recipe.feature_taps)
    (metrics,) = run(state, recipe, given, source)

    shares = torch.full((24, 3), 0.1 / 3).scatter_add(
        1, DATA.labels[:, None], torch.full((24, 1), 0.9)
    )
    hard = -(shares * logits.log_softmax(1)).sum(1).mean().item()
    soft = feature = alpha = 0.0
    if recipe.soft_kind == "kl":
        alpha, temperature = recipe.alpha.initial, recipe.temperature.initial
        target = (reading.logits / temperature).softmax(1)
        gap = target.log() - (logits / temperature).log_softmax(1)
        soft = temperature**2 * (target * gap).sum(1).mean().item()
        assert (metrics.temperature, metrics.alpha) == (temperature, alpha)
    for tap, kept in reading.taps.items():
        layer = begin(recipe, source).adapters.layers[tap]
        student = functional.adaptive_avg_pool2d(layer(maps[tap]), kept.features.shape[2:])
        error = (student - kept.features).square().sum(1).mean() / kept.variance
        feature += error.item() / len(reading.taps)
    assert metrics.hard_loss == pytest.approx(hard, rel=1e-4)
    assert metrics.soft_loss == pytest.approx(soft, rel=1e-4)
    assert metrics.feature_loss == pytest.approx(feature, rel=1e-4)
    expected = (1 - alpha) * hard + alpha * soft + recipe.feature_weight * feature
    assert metrics.loss == pytest.approx(expected, rel=1e-4)


def test_losses_of_an_epoch_are_means_over_its_steps(source: LiveTeacher) -> None:
    """At a rate that moves nothing, each batch can be asked again."""
    spy, recipe = Spy(source), replace(DISTILLED, lr=1e-12)
    state = begin(recipe, source)
    (metrics,) = run(state, recipe, plan(epochs=1), spy)
    losses = [
        functional.cross_entropy(network()(images), DATA.labels[index]).item()
        for index, images in zip(spy.index, spy.images, strict=True)
    ]
    assert metrics.hard_loss == pytest.approx(sum(losses) / 3, rel=1e-5)
    assert len(set(losses)) == 3


def test_balanced_class_weights_are_those_of_the_training_split(source: LiveTeacher) -> None:
    spy, recipe = Spy(source), replace(DISTILLED, lr=1e-12)
    given = replace(plan(epochs=1), class_weights="balanced")
    (metrics,) = run(begin(recipe, source), recipe, given, spy)
    weights = len(DATA) / (DATA.labels.bincount().float() * int(DATA.labels.max() + 1))
    assert len(set(weights.tolist())) > 1
    losses = [
        functional.cross_entropy(network()(images), DATA.labels[index], reduction="none")
        @ weights[DATA.labels[index]]
        / len(index)
        for index, images in zip(spy.index, spy.images, strict=True)
    ]
    assert metrics.hard_loss == pytest.approx(sum(one.item() for one in losses) / 3, rel=1e-5)


def test_a_student_trains_in_train_mode_whatever_mode_it_came_in(source: LiveTeacher) -> None:
    state, usual = begin(PLAIN, source), trained(PLAIN, plan(), None, live=source)
    state.network.eval()
    list(run(state, PLAIN, plan(), None))
    assert same_bits(state.tensors(), usual.tensors())


def test_a_step_is_one_of_nesterov_momentum_with_weight_decay(source: LiveTeacher) -> None:
    """From rest the momentum is the gradient g, and the step lr (g + 0.9 g)."""
    recipe, given = replace(PLAIN, weight_decay=0.1), plan(epochs=1, batch_size=24)
    state, twin = begin(recipe, source), network()
    functional.cross_entropy(twin(one_batch(DATA, given)), DATA.labels).backward()
    list(run(state, recipe, given, None))
    for after, before in zip(state.network.parameters(), twin.parameters(), strict=True):
        gradient = before.grad + recipe.weight_decay * before
        expected = before - recipe.lr * 1.9 * gradient
        torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-5)


def clipped_and_averaged_by_torch(
    optimizer: str, given: Plan, decay: float
) -> Iterator[tuple[Network, Network]]:
    """Yield student and average after each step of a loop of torch alone, which smooths nothing."""

    def mean(held: Tensor, new: Tensor, updates: Tensor) -> Tensor:
        kept = min(decay, float(updates / (9 + updates)))
        return kept * held + (1 - kept) * new

    student = network()
    averaged = AveragedModel(student, avg_fn=mean, use_buffers=True)
    averaged.update_parameters(student)  # which only copies, and counts n from 1
    layers = (nn.Conv2d, nn.Linear)
    weights = [each.weight for each in student.modules() if isinstance(each, layers)]
    others = [each for each in student.parameters() if not any(each is one for one in weights)]
    if optimizer == "adamw":
        groups = [{"params": weights, "weight_decay": 0.1}, {"params": others, "weight_decay": 0}]
        steps: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=0.01)
    else:
        steps = torch.optim.SGD(
            student.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1
        )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(steps, given.epochs * 3)
    for epoch in range(given.epochs):
        images = render(DATA.values, view(given.view_seed, epoch, DATA.values, given.augment))
        for index in _order(given, epoch, len(DATA)):
            steps.zero_grad()
            functional.cross_entropy(student(images[index]), DATA.labels[index]).backward()
            norm = nn.utils.clip_grad_norm_(student.parameters(), given.clip)
            assert norm > given.clip
            steps.step()
            schedule.step()
            averaged.update_parameters(student)
            yield student, averaged.module


@pytest.mark.parametrize("optimizer", OPTIMIZERS.names)
def test_steps_clipping_and_average_are_those_of_a_loop_of_torch(
    optimizer: str, source: LiveTeacher
) -> None:
    recipe, given = replace(PLAIN, lr=0.01, weight_decay=0.1), plan(clip=0.3)
    state = begin(recipe, source, optimizer=optimizer, ema=0.25)  # from the fourth step on
    seen: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []

    def keep() -> bool:
        seen.append((copied(state.network.state_dict()), copied(state.result.state_dict())))
        return False

    list(run(state, recipe, given, None, stopped=keep))
    keep()
    first, *after = seen
    assert same_bits(*first)
    assert len(after) == 6
    own = clipped_and_averaged_by_torch(optimizer, given, 0.25)
    for (weights, average), (student, averaged) in zip(after, own, strict=True):
        for found, wanted in ((weights, student), (average, averaged)):
            named = {**wanted.state_dict()}
            counters = [name for name in named if name.endswith("num_batches_tracked")]
            for name in counters:
                named[name] = student.state_dict()[name]
            torch.testing.assert_close({**found}, named, rtol=1e-4, atol=1e-6)


def test_what_is_validated_is_the_average(source: LiveTeacher) -> None:
    state = begin(DISTILLED, source, ema=0.9)
    *_, last = run(state, DISTILLED, plan(), source)
    assert not same_bits(state.result.state_dict(), state.network.state_dict())
    of_average, of_last = (
        evaluate(predict(each, VALIDATION), VALIDATION.labels, source.validation_logits)
        for each in (state.result, state.network)
    )
    assert {name: getattr(last, name) for name in of_average} == of_average
    assert of_average != of_last
    assert begin(DISTILLED, source).average is None


def test_averaging_and_a_limit_that_is_not_reached_change_no_bit_of_training(
    source: LiveTeacher,
) -> None:
    usual, state = trained(HINT, plan(), source, live=source), begin(HINT, source, ema=0.9)
    list(run(state, HINT, plan(clip=1e6), source))
    kept = {name: each for name, each in state.tensors().items() if not name.startswith("average")}
    assert same_bits(kept, usual.tensors())


@pytest.mark.parametrize("kind", FEATURE_KINDS)
def test_every_parameter_of_student_and_adapters_is_optimized_and_moves(
    kind: str, source: LiveTeacher
) -> None:
    recipe = replace(HINT, feature_kind=kind) if kind != "none" else DISTILLED
    state = begin(recipe, source)
    assert bool(state.adapters.layers) == (kind in ("hint", "cosine", "vid"))
    named = dict(state.network.named_parameters()) | dict(state.adapters.named_parameters())
    held = [each for group in state.optimizer.param_groups for each in group["params"]]
    assert {id(parameter) for parameter in held} == {id(each) for each in named.values()}
    before = copied(named)
    list(run(state, recipe, plan(epochs=1), source))
    assert [name for name in named if torch.equal(named[name], before[name])] == []


# Every field of a recipe arrives.


def at(recipe: Recipe, path: str, value: Any) -> Recipe:
    """Return the recipe with the field `path`, as `lr` or `alpha.final`, changed."""
    name, _, inner = path.partition(".")
    return replace(
        recipe, **{name: replace(getattr(recipe, name), **{inner: value}) if inner else value}
    )


SHARP = Schedule(shape="sigmoid", initial=0.8, final=0.2, sharpness=0.5)
# From this recipe every number has an effect.
FULL = replace(
    SIMILARITY,
    label_smoothing=0.05,
    temperature=replace(SHARP, initial=5.0, final=1.0),
    alpha=SHARP,
)
NUMBERS = {
    "lr": 0.04,
    "weight_decay": 1e-2,
    "label_smoothing": 0.1,
    "feature_weight": 0.7,
    "feature_taps": ("last1", "last2"),
    "temperature.initial": 4.0,
    "temperature.final": 2.0,
    "temperature.sharpness": 0.9,
    "alpha.initial": 0.7,
    "alpha.final": 0.3,
    "alpha.sharpness": 0.9,
}
CHOICES = {
    "soft_kind": SOFT_KINDS,
    "feature_kind": FEATURE_KINDS,
    "temperature.shape": SHAPES,
    "alpha.shape": SHAPES,
}


def weights_after_one_epoch(recipe: Recipe, source: LiveTeacher) -> dict[str, Tensor]:
    """Three steps, at progress 0, 1/3 and 2/3: where every shape has a way of its own."""
    state = begin(recipe, source)
    list(run(state, recipe, plan(epochs=1), source))
    return copied(state.network.state_dict())


def chosen(path: str, choice: str) -> Recipe:
    """Return a recipe with one of the choices at `path`, and what goes with it."""
    if path == "soft_kind" and choice == "none":
        return replace(FULL, soft_kind="none", alpha=Schedule.constant(0.0))
    if path == "feature_kind" and choice == "none":
        return replace(FULL, feature_kind="none", feature_weight=0.0, feature_taps=())
    if choice == "constant":
        name = path.partition(".")[0]
        return replace(FULL, **{name: Schedule.constant(getattr(FULL, name).initial)})
    return at(FULL, path, choice)


def test_the_paths_below_are_all_fields_of_a_recipe_but_its_models() -> None:
    """Whoever builds student and teachers reads these: `workers.runners.loading`.

    The parameters that are a loss's own depend on the loss: see the test below.
    """
    paths = set()
    for field in dataclasses.fields(Recipe):
        if field.name in ("student", "teacher_shares", "soft_parameters", "feature_parameters"):
            continue
        inner = dataclasses.fields(Schedule) if field.name in ("temperature", "alpha") else ()
        paths |= {f"{field.name}.{each.name}" for each in inner} or {field.name}
    assert paths == {*NUMBERS, *CHOICES}


@pytest.fixture(scope="module")
def baseline(source: LiveTeacher) -> dict[str, Tensor]:
    return weights_after_one_epoch(FULL, source)


def test_the_same_recipe_gives_the_same_weights(
    baseline: dict[str, Tensor], source: LiveTeacher
) -> None:
    assert same_bits(weights_after_one_epoch(replace(FULL), source), baseline)


@pytest.mark.parametrize("path", NUMBERS)
def test_every_number_of_a_recipe_arrives_in_training(
    path: str, baseline: dict[str, Tensor], source: LiveTeacher
) -> None:
    changed = weights_after_one_epoch(at(FULL, path, NUMBERS[path]), source)
    assert not same_bits(changed, baseline)


@pytest.mark.parametrize("name", ["target_weight", "non_target_weight"])
def test_a_parameter_of_the_soft_loss_arrives_in_training(name: str, source: LiveTeacher) -> None:
    usual = replace(FULL, soft_kind="dkd", soft_parameters={})
    changed = replace(usual, soft_parameters={name: 3.0})
    weights = [weights_after_one_epoch(recipe, source) for recipe in (usual, changed)]
    assert not same_bits(*weights)


TIMES = '''"""Attention transfer, times a factor of its own."""

from dataclasses import dataclass

from kd.losses.features import attention

ADAPTED = False


@dataclass(frozen=True)
class Parameters:
    factor: float = 1.0


def loss(student, reading, parameters):
    return parameters.factor * attention.loss(student, reading)
'''


def test_a_parameter_of_the_feature_loss_arrives_in_training(
    source: LiveTeacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "times.py").write_text(TIMES)
    monkeypatch.setattr(features, "__path__", [*features.__path__, str(tmp_path)])
    usual = replace(FULL, feature_kind="attention")
    own = [replace(FULL, feature_kind="times", feature_parameters=p) for p in ({}, {"factor": 2.0})]
    assert own[0].feature_parameters == {"factor": 1.0}
    weights = [weights_after_one_epoch(recipe, source) for recipe in (usual, *own)]
    assert same_bits(weights[0], weights[1])
    assert not same_bits(weights[1], weights[2])
    twice = replace(usual, feature_weight=2 * usual.feature_weight)
    assert same_bits(weights[2], weights_after_one_epoch(twice, source))
    sys.modules.pop("kd.losses.features.times")


@pytest.mark.parametrize("path", CHOICES)
def test_every_choice_of_a_recipe_trains_in_its_own_way(path: str, source: LiveTeacher) -> None:
    results = {
        choice: weights_after_one_epoch(chosen(path, choice), source) for choice in CHOICES[path]
    }
    alike = [
        (one, other)
        for one, left in results.items()
        for other, right in results.items()
        if one < other and same_bits(left, right)
    ]
    assert alike == []


@pytest.mark.parametrize("shape", SHARP_SHAPES)
@pytest.mark.parametrize("name", ["temperature", "alpha"])
def test_sharpness_arrives_for_every_shape_that_has_one(
    name: str, shape: str, source: LiveTeacher
) -> None:
    ends = {"temperature": (5.0, 1.0), "alpha": (0.8, 0.2)}[name]
    seen = []
    for sharpness in (0.0, 1.0):
        schedule = Schedule(shape=shape, initial=ends[0], final=ends[1], sharpness=sharpness)
        state = begin(FULL, source)
        given = plan(epochs=2)  # a step lies at 0.3 to 0.8 of the way
        seen.append(
            [getattr(m, name) for m in run(state, replace(FULL, **{name: schedule}), given, source)]
        )
    assert seen[0] != seen[1]


# Schedules.


@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_the_last_step_of_an_epoch_has_the_scheduled_temperature_alpha_and_rate(
    warmup: float, source: LiveTeacher
) -> None:
    recipe = replace(DISTILLED, alpha=Schedule(shape="cosine", initial=0.9, final=0.3))
    given = plan(epochs=4, warmup=warmup)
    history = trained(recipe, given, source, live=source).history
    assert [metrics.epoch for metrics in history] == [1, 2, 3, 4]
    for number, metrics in enumerate(history):
        progress = (3 * number + 2) / 12  # three steps an epoch
        assert metrics.temperature == pytest.approx(5 - 4 * progress)
        assert metrics.alpha == pytest.approx(0.6 + 0.3 * math.cos(math.pi * progress))
        gone = (progress - warmup) / (1 - warmup)
        factor = progress / warmup if gone < 0 else (1 + math.cos(math.pi * gone)) / 2
        assert metrics.lr == pytest.approx(0.05 * factor)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_let_go_for_one_epoch_trains_as_the_first_epoch_of_the_whole(
    kind: str, source: LiveTeacher
) -> None:
    recipe, given = KINDS[kind], plan(epochs=4)
    cut = next(run(begin(recipe, source), recipe, given, source))
    whole = trained(recipe, given, source, live=source).history
    assert timeless([cut]) == timeless(whole[:1])


def test_the_rate_reaches_the_optimizer(source: LiveTeacher) -> None:
    """At progress 0 of a warm-up the rate is 0: a single step moves nothing."""
    state = begin(PLAIN, source)
    before = copied(dict(state.network.named_parameters()))
    list(run(state, PLAIN, plan(epochs=1, batch_size=24, warmup=0.5), None))
    assert same_bits(copied(dict(state.network.named_parameters())), before)


# Going on.


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_resumed_after_any_epoch_is_the_uninterrupted_one_bit_by_bit(
    kind: str, source: LiveTeacher
) -> None:
    recipe, given = KINDS[kind], plan(epochs=3, views=(0, 1, 2), warmup=0.1)
    whole = begin(recipe, source)
    kept = [
        (copied(whole.tensors()), list(whole.history)) for _ in run(whole, recipe, given, source)
    ]
    assert len(kept) == 3
    for tensors, history in kept:
        torch.manual_seed(123)  # the global generator is no part of the state
        second = begin(recipe, source)
        second.restore(tensors, history)
        assert same_bits(second.tensors(), tensors)
        list(run(second, recipe, given, source))
        assert same_bits(second.tensors(), whole.tensors())
        assert timeless(second.history) == timeless(whole.history)


class Late(nn.Module):
    """A layer that adds a second one once it has seen `after` batches."""

    def __init__(self, first: nn.Module, after: int) -> None:
        super().__init__()
        self.first, self.second, self.after = first, nn.Linear(CLASSES, CLASSES), after
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.first(x)
        self.seen += int(self.training)
        return self.second(logits) if self.seen > self.after else logits


def partly_trained(part: str) -> TrainingState:
    """The state before the first epoch of a student of which a part gets no gradient, or late."""
    torch.manual_seed(0)
    student = network()
    body = student.body
    if part == "frozen parameter":
        body.conv1.weight.requires_grad_(False)
    if part == "frozen stage":
        body.layer2.requires_grad_(False)
    if part == "parameter of whole numbers":
        body.order = nn.Parameter(torch.arange(3), requires_grad=False)
    if part == "unused head":
        body.layer3[0].auxiliary = nn.Linear(4, CLASSES)
    if part.startswith("late"):
        body.fc = Late(body.fc, after=4 if part == "late in its second epoch" else 1)
    return TrainingState.start(student, Adapters({}, {}, seed=0), PLAIN)


@pytest.mark.parametrize(
    "part",
    [
        "frozen parameter",
        "frozen stage",
        "parameter of whole numbers",
        "unused head",
        "late in its first epoch",
        "late in its second epoch",
    ],
)
def test_a_run_continues_bit_by_bit_whatever_part_gets_no_gradient_or_gets_it_late(
    part: str, tmp_path: Path
) -> None:
    given, path = plan(epochs=3, views=(0, 1, 2)), tmp_path / "checkpoint.safetensors"
    whole = partly_trained(part)
    files = []
    for metrics in run(whole, PLAIN, given, None):
        files.append(path.with_name(str(metrics.epoch)))
        write_checkpoint(files[-1], {}, whole.tensors(), whole.history)
    for file in files:
        second = partly_trained(part)
        second.restore(*read_checkpoint(file, {}))
        list(run(second, PLAIN, given, None))
        assert same_bits(second.tensors(), whole.tensors())
        assert timeless(second.history) == timeless(whole.history)


def test_dropout_is_drawn_from_seed_and_epoch_so_that_a_run_can_continue(
    source: LiveTeacher,
) -> None:
    def dropping() -> TrainingState:
        state = begin(PLAIN, source)
        state.network.body.fc.register_forward_pre_hook(
            lambda layer, given: functional.dropout(given[0], training=layer.training)
        )
        return state

    whole, first, second = dropping(), dropping(), dropping()
    history = timeless(list(run(whole, PLAIN, plan(), None)))
    next(run(first, PLAIN, plan(), None))
    torch.manual_seed(123)
    second.restore(copied(first.tensors()), first.history)
    list(run(second, PLAIN, plan(), None))
    assert same_bits(second.tensors(), whole.tensors())
    assert history != timeless(trained(PLAIN, plan(), None, live=source).history)


def test_the_state_holds_student_adapters_and_momentum(source: LiveTeacher) -> None:
    state = trained(HINT, plan(epochs=1), source, live=source)
    parts = [name.partition(".")[0] for name in state.tensors()]
    adapters = len(list(state.adapters.parameters()))
    parameters = len(list(state.network.parameters())) + adapters
    assert parts.count("network") == len(state.network.state_dict())
    assert parts.count("adapters") == adapters == 4
    assert parts.count("optimizer") == parameters
    assert all(tensor.isfinite().all() for tensor in state.tensors().values())


def test_a_restored_state_shares_nothing_with_what_it_was_restored_from(
    source: LiveTeacher,
) -> None:
    given = plan(epochs=2)
    first, second = begin(PLAIN, source), begin(PLAIN, source)
    next(run(first, PLAIN, given, source))
    second.restore(first.tensors(), first.history)
    before, history = copied(first.tensors()), list(first.history)
    list(run(second, PLAIN, given, source))
    assert same_bits(first.tensors(), before)
    assert first.history == history


BIAS = "network.body.fc.bias"
# the recipe and student of another run, and what is done to the tensors that it is restored from
OTHERS: dict[str, tuple[Recipe, str, Callable[[dict[str, Tensor]], object]]] = {
    "model": (PLAIN, TEACHER, lambda kept: None),
    "recipe": (HINT, STUDENT, lambda kept: None),
    "no momentum": (
        PLAIN, STUDENT, lambda kept: [kept.pop(n) for n in [*kept] if n.startswith("optimizer.")]
    ),
    "foreign name": (PLAIN, STUDENT, lambda kept: kept.update(scaler=torch.zeros(1))),
    "dtype": (PLAIN, STUDENT, lambda kept: kept.update({BIAS: kept[BIAS].double()})),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_tensors_of_another_run_are_refused_and_change_nothing(
    what: str, source: LiveTeacher
) -> None:
    recipe, student, change = OTHERS[what]
    kept = copied(trained(PLAIN, plan(epochs=1), None, live=source).tensors())
    change(kept)
    state = begin(recipe, source, name=student)
    before = copied(state.tensors())
    with pytest.raises(ArtifactError, match=r"^the checkpoint is of another run: .* is .*, not "):
        state.restore(kept, [])
    assert same_bits(state.tensors(), before)


@pytest.mark.parametrize("steps", [0, 1, 2, 4])
def test_a_stopped_run_ends_before_its_next_step(steps: int, source: LiveTeacher) -> None:
    """Three steps an epoch: after 4, one epoch was said and the second ends at once."""
    spy = Spy(source)
    state = begin(DISTILLED, source)
    said = list(run(state, DISTILLED, plan(), spy, stopped=lambda: len(spy.views) >= steps))
    assert len(spy.views) == steps
    assert len(said) == len(state.history) == state.epoch == steps // 3


# Seeds, views and batches.


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(source: LiveTeacher) -> None:
    first, again = (trained(HINT, plan(), source, live=source) for _ in range(2))
    other = trained(HINT, plan(seed=5), source, live=source)
    assert same_bits(first.tensors(), again.tensors())
    assert not same_bits(first.tensors(), other.tensors())


def test_the_seed_decides_the_order_of_batches_and_not_the_views(source: LiveTeacher) -> None:
    spies = [Spy(source), Spy(source)]
    for seed, spy in enumerate(spies):
        trained(DISTILLED, plan(epochs=1, seed=seed), spy, live=source)
    orders = [torch.cat(spy.index) for spy in spies]
    assert not torch.equal(*orders)
    seen = [torch.cat(spy.images)[torch.cat(spy.index).argsort()] for spy in spies]
    assert torch.equal(*seen)


def test_views_cycle_in_the_order_of_the_plan(source: LiveTeacher) -> None:
    spy = Spy(source)
    trained(DISTILLED, plan(epochs=5, batch_size=24, views=(7, 2)), spy, live=source)
    assert spy.views == [7, 2, 7, 2, 7]


def test_each_epoch_shows_the_pixels_of_its_view(source: LiveTeacher) -> None:
    spy = Spy(source)
    trained(DISTILLED, plan(views=(6, 1)), spy, live=source)
    assert spy.views == [6] * 3 + [1] * 3
    for k, index, images in zip(spy.views, spy.index, spy.images, strict=True):
        rows = view(3, k, DATA.values, AUGMENT).at(index)
        expected = render(DATA.values[index], rows)
        assert torch.equal(images, expected)


def test_a_replicate_with_another_order_of_views_sees_other_views(source: LiveTeacher) -> None:
    states = {views: begin(PLAIN, source) for views in ((0, 1), (0, 2), (1, 0))}
    runs = {views: run(state, PLAIN, plan(views=views), None) for views, state in states.items()}
    firsts = {views: timeless([next(epochs)]) for views, epochs in runs.items()}
    assert firsts[0, 1] == firsts[0, 2] != firsts[1, 0]
    seconds = {views: timeless([next(epochs)]) for views, epochs in runs.items()}
    assert seconds[0, 1] != seconds[0, 2]


def test_another_view_seed_shows_other_pixels(source: LiveTeacher) -> None:
    one = trained(PLAIN, plan(), None, live=source)
    other = trained(PLAIN, plan(view_seed=8), None, live=source)
    assert not same_bits(one.tensors(), other.tensors())


def test_every_row_comes_once_an_epoch_in_another_order_each_time(source: LiveTeacher) -> None:
    spy = Spy(source)
    trained(DISTILLED, plan(), spy, live=source)
    epochs = torch.cat(spy.index).view(2, 24)
    assert (epochs.sort().values == torch.arange(24)).all()
    assert not torch.equal(epochs[0], epochs[1])


@pytest.mark.parametrize(("batch_size", "sizes"), [(10, [10, 10]), (24, [24]), (25, [24])])
def test_an_incomplete_last_batch_is_left_out(
    batch_size: int, sizes: list[int], source: LiveTeacher
) -> None:
    spy = Spy(source)
    trained(DISTILLED, plan(epochs=1, batch_size=batch_size), spy, live=source)
    assert [len(index) for index in spy.index] == sizes
    assert len(torch.cat(spy.index).unique()) == sum(sizes)


# What goes wrong.


def test_a_loss_that_is_not_finite_names_step_and_epoch(source: LiveTeacher) -> None:
    def broken(reads: int, reading: TeacherReading) -> TeacherReading:
        return replace(reading, logits=reading.logits * (math.nan if reads == 5 else 1))

    state = begin(DISTILLED, source)
    epochs = run(state, DISTILLED, plan(), Spy(source, broken))
    next(epochs)
    with pytest.raises(DivergenceError, match="the loss is not finite at step 2 of epoch 2"):
        next(epochs)
    assert state.epoch == 1


def test_a_run_whose_rate_is_far_too_large_diverges_as_such(source: LiveTeacher) -> None:
    recipe = replace(PLAIN, lr=10.0, weight_decay=1.0)
    with pytest.raises(DivergenceError, match="not finite"):
        trained(recipe, plan(epochs=60), None, live=source)


def test_weights_that_are_not_finite_are_a_divergence_too(source: LiveTeacher) -> None:
    """The last step may break them after a loss that was fine."""
    state = begin(PLAIN, source)

    def breaks(*_: object) -> None:
        with torch.no_grad():
            state.network.body.fc.bias.fill_(math.inf)

    state.optimizer.register_step_post_hook(breaks)
    with pytest.raises(DivergenceError, match="the weights are not finite after epoch 1"):
        list(run(state, PLAIN, plan(epochs=1, batch_size=24), None))


def test_a_recipe_that_distils_needs_a_teacher(source: LiveTeacher) -> None:
    with pytest.raises(ValueError, match="a recipe that distils needs a teacher"):
        trained(DISTILLED, plan(), None, live=source)


# The teacher, validation and what a run is for.


@pytest.mark.parametrize("kind", ["hint", "similarity"])
def test_training_leaves_the_teacher_alone(kind: str) -> None:
    live = teacher(DATA, VALIDATION)
    live.network.train()
    before = copied(live.network.state_dict())
    vectors = {tap: projection.vectors.clone() for tap, projection in live.projections.items()}
    trained(KINDS[kind], plan(), live, live=live)
    assert same_bits(live.network.state_dict(), before)
    assert not any(layer.training for layer in live.network.modules())
    assert all(parameter.grad is None for parameter in live.network.parameters())
    assert all(torch.equal(live.projections[tap].vectors, vectors[tap]) for tap in vectors)


def test_a_run_with_a_teacher_is_compared_with_it_on_the_validation_split(
    source: LiveTeacher,
) -> None:
    state = begin(PLAIN, source)
    (metrics,) = run(state, PLAIN, plan(epochs=1), source)
    pixels = VALIDATION.values
    with torch.no_grad():
        logits = state.network.eval()(pixels)
    named, taught = logits.argmax(1), source.validation_logits.argmax(1)
    assert metrics.accuracy == (named == VALIDATION.labels).double().mean()
    assert metrics.objective == metrics.accuracy
    balanced = plan(epochs=1, metric="balanced-accuracy")
    (other,) = run(begin(PLAIN, source), PLAIN, balanced, source)
    value = objective(balanced.metric, logits.numpy(), VALIDATION.labels.numpy())
    assert timeless([other]) == timeless([replace(metrics, objective=value)])
    assert metrics.agreement == (named == taught).double().mean()
    assert metrics.teacher_kl > 0
    (alone,) = run(begin(PLAIN, source), PLAIN, plan(epochs=1), None)
    assert (alone.agreement, alone.teacher_kl) == (None, None)
    assert timeless([replace(metrics, agreement=None, teacher_kl=None)]) == timeless([alone])


def enqueued() -> list[Any]:
    cases = []
    for arm in SPACES.names:
        space = load_space(arm)
        for title, parameters in space.enqueued.items():
            recipe = space.suggest(optuna.trial.FixedTrial(dict(parameters)))
            cases.append(pytest.param(recipe, id=f"{arm}-{title}"))
    return cases


BY_HEART = labelled(32, seed=5)


def learnt(recipe: Recipe, live: LiveTeacher | None) -> tuple[Network, float]:
    """Train a small student on BY_HEART; return it and its accuracy on the same images."""
    state = begin(recipe, live, name="resnet8-w0.5")
    given = plan(epochs=20, batch_size=16, views=(0,), augment="none", warmup=0.1)
    *_, last = train(state, recipe, given, BY_HEART, BY_HEART, live)
    return state.network, last.accuracy


@pytest.fixture(scope="module")
def knowing() -> LiveTeacher:
    """A teacher that knows BY_HEART."""
    model, accuracy = learnt(PLAIN, None)
    assert accuracy == 1
    return LiveTeacher(model, fit_projections(model, BY_HEART, TAPS), predict(model, BY_HEART))


@pytest.mark.parametrize("recipe", enqueued())
def test_the_recipes_tried_first_learn_32_images_by_heart(
    recipe: Recipe, knowing: LiveTeacher
) -> None:
    assert learnt(recipe, knowing)[1] == 1
