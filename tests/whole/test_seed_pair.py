"""ResNet50 teaches ResNet18, with either stem: the seed experiment, without a GPU.

The slow tests run the preset `cifar10` by its command on 256 images. With the CIFAR stem these have
16 pixels, not 32: a quarter of the arithmetic (ResNet50 takes 1.3 GMAC an image of 32 pixels), and
maps of 16, 8, 4 and 2, so that every rule of shapes is met: pooled to 4x4, just 4x4, and smaller.
The ImageNet stem takes 32 pixels to maps of 8, 4, 2 and 1.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from optuna.trial import FixedTrial
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from conductor.command_line.cli import main
from kd.data.examples import Examples
from kd.losses.adapters import Adapters
from kd.models.build import Network, build, export_state, tap_shapes
from kd.models.families.torchvision import imagenet_files
from kd.models.weights import fit_kernel
from kd.recipe import Recipe
from kd.training.evaluation import predict
from kd.training.loop import train
from kd.training.state import TrainingState
from kd.training.teacher import LiveTeacher, Projection, fit_projections
from search_spaces import SPACES
from search_spaces.space import load_space
from storage.files.layout import Layout, StudyLayout
from storage.files.records import Finalists, RunRecord, StudySettings
from storage.files.shards import read_projections, view_folder
from storage.files.tensors import map_tensors
from tests.support.small import plan, square
from tests.support.tiny import hasten
from workers.runners import preparing as stages

PAIR = ("resnet50", "resnet18")
STEMS = {"cifar": 16, "imagenet": 32}  # stem: pixels of the slow tests
SHRINKING = {"cifar": 1, "imagenet": 4}  # of the stem
TAPS = ("last1", "last2", "last3", "last4")
CHANNELS = {"resnet50": (2048, 1024, 512, 256), "resnet18": (512, 256, 128, 64)}
CLASSES = 10
TRAIN, HELD_BACK = 256, 32  # images; as many of validation as of test
# The learning rate of the recipe is one for many epochs: with four steps it is still rising.
FLAGS = f"""
run --preset cifar10 --arms scheduled --trials 1 --seeds 1 --epochs 1
--confirm-epochs 1 --batch-size 64 --warmup 0.9 --train-size {TRAIN} --test-fraction 0.1
--validation-fraction 0.1111 --taps {",".join(TAPS)}
"""


def first_recipe(arm: str) -> Recipe:
    """The recipe that an arm tries first; that of `scheduled` is the classic one."""
    space = load_space(arm)
    return space.suggest(FixedTrial({**next(iter(space.enqueued.values()))}))


CLASSIC = first_recipe("scheduled")


def shapes(name: str, stem: str, pixels: int) -> dict[str, tuple[int, int, int]]:
    """What each tap's output must be: channels, height and width, the deepest first."""
    sides = [math.ceil(pixels / SHRINKING[stem] / 2**depth) for depth in (3, 2, 1, 0)]
    return {
        tap: (channels, side, side)
        for tap, channels, side in zip(TAPS, CHANNELS[name], sides, strict=True)
    }


def on_meta(name: str, stem: str, pixels: int) -> Network:
    with torch.device("meta"):
        return build(name, classes=CLASSES, inputs=square(3, pixels), stem=stem, seed=0)


@pytest.mark.parametrize("pixels", [16, 32, 224])
@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("name", PAIR)
def test_every_stage_has_its_shape(name, stem, pixels):
    network = on_meta(name, stem, pixels)
    assert tap_shapes(network) == shapes(name, stem, pixels)
    images = torch.empty(2, 3, pixels, pixels, dtype=torch.uint8, device="meta")
    logits, maps = network.forward_taps(images, TAPS)
    assert logits.shape == (2, CLASSES)
    assert {tap: tuple(each.shape[1:]) for tap, each in maps.items()} == shapes(name, stem, pixels)


@pytest.mark.parametrize("pixels", [32, 224])
@pytest.mark.parametrize("stem", STEMS)
def test_a_step_of_the_pair_runs_on_shapes_alone_and_waits_for_nothing(stem, pixels):
    """On the meta device nothing has content, so whatever asks for it before the end raises."""
    meta = torch.device("meta")
    recipe = everywhere(CLASSIC)
    projections = {
        tap: Projection(
            vectors=torch.empty(channels, 64, device=meta), scale=1.0, variance=1.0, energy=1.0
        )
        for tap, channels in zip(TAPS, CHANNELS["resnet50"], strict=True)
    }
    source = LiveTeacher(on_meta("resnet50", stem, pixels), projections, torch.empty(0))
    state = begin(on_meta("resnet18", stem, pixels), recipe, source, meta)
    data = Examples(
        values=torch.empty(4, 3, pixels, pixels, dtype=torch.uint8, device=meta),
        labels=torch.empty(4, dtype=torch.long, device=meta),
        inputs=square(3, pixels),
    )
    asked = iter(range(100))
    with pytest.raises(RuntimeError, match="meta tensor"):
        next(train(state, recipe, plan(batch_size=2), data, data, source, lambda: next(asked) < 0))
    assert next(asked) == 2  # both steps of the epoch had begun


def everywhere(recipe: Recipe) -> Recipe:
    """The recipe, read at every tap."""
    return Recipe.from_json({**recipe.to_json(), "feature_taps": list(TAPS)})


def begin(
    student: Network, recipe: Recipe, source: LiveTeacher | None, device: torch.device
) -> TrainingState:
    """The state before the first epoch, with the adapters that the recipe needs."""
    found = tap_shapes(student)
    taps = recipe.feature_taps if source else ()
    reading = {tap: source.projections[tap].vectors.shape[1] for tap in taps if source}
    adapters = Adapters.of(
        recipe.feature_kind, {tap: found[tap][0] for tap in taps}, reading, seed=0
    )
    return TrainingState.start(student, adapters.to(device), recipe)


@pytest.fixture(scope="module")
def digits() -> Examples:
    """64 real images to be learnt by heart: scikit-learn's digits, 8 pixels."""
    found = load_digits()
    pixels = torch.from_numpy((found.images[:64] * 15).astype(np.uint8))[:, None]
    return Examples(
        values=pixels,
        labels=torch.from_numpy(found.target[:64]),
        inputs=square(mean=0.3, deviation=0.35),
    )


def learn(
    name: str, recipe: Recipe, data: Examples, source: LiveTeacher | None, epochs: int
) -> tuple[Network, list[float]]:
    """Train a network without augmentation; return it, and its accuracy on `data` by epoch."""
    network = build(name, classes=CLASSES, inputs=data.inputs, stem="cifar", seed=1)
    state = begin(network, recipe, source, torch.device("cpu"))
    way = plan(epochs=epochs, batch_size=16, warmup=0.1, augment="none", views=(0,), seed=2)
    return network, [one.accuracy for one in train(state, recipe, way, data, data, source)]


@pytest.fixture(scope="module")
def overfitted(digits) -> LiveTeacher:
    """A teacher that has learnt the images by heart."""
    network, accuracies = learn("resnet20", Recipe(lr=0.05), digits, None, epochs=20)
    assert accuracies[-1] == 1
    return LiveTeacher(
        network, fit_projections(network, digits, network.taps), predict(network, digits)
    )


@pytest.mark.parametrize("arm", SPACES.names)
def test_the_first_recipe_of_each_arm_learns_64_images_by_heart(digits, overfitted, arm):
    """A small pair of the same make: ResNet50 and ResNet18 would take minutes."""
    recipe = first_recipe(arm)
    source = overfitted if recipe.distils else None
    _, accuracies = learn("resnet8-w0.5", recipe, digits, source, epochs=25)
    assert accuracies[0] < 0.5
    assert accuracies[-3:] == [1.0] * 3


@dataclass(frozen=True)
class Ran:
    """A study of the pair that has ended: with which stem, and where.

    `given` are ImageNet's weights, `begun` those that the teacher began with.
    """

    stem: str
    layout: Layout
    given: dict[str, Tensor]
    begun: dict[str, Tensor]

    @property
    def study(self) -> StudyLayout:
        return self.layout.study("cifar10")

    @property
    def settings(self) -> StudySettings:
        return StudySettings.read(self.study.settings)

    def shapes(self, name: str) -> dict[str, tuple[int, int, int]]:
        return shapes(name, self.stem, STEMS[self.stem])

    def command(self, *arguments: str) -> int:
        return main([*arguments, "--root", str(self.layout.root), "--workers", "inline"])


def save_images(folder: Path) -> None:
    """Save noise of another brightness for each class, in as many files as the study needs."""
    draw = np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / str(label)).mkdir(parents=True)
        for number in range((TRAIN + 2 * HELD_BACK) // CLASSES):
            pixels = draw.integers(10 * label, 10 * label + 150, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / str(label) / f"{number}.png")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A folder with images, and a hub of torch with ResNet50's weights in ImageNet's format."""
    place = tmp_path_factory.mktemp("pair")
    save_images(place / "images")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(place / "torch"))
        file = imagenet_files()["resnet50"]
    file.parent.mkdir(parents=True)
    donor = build("resnet50", classes=1000, inputs=square(3, 224), stem="imagenet", seed=3)
    weights = export_state(donor)
    torch.save(weights, file)
    return place, weights


@pytest.fixture(
    scope="module", params=["cifar", pytest.param("imagenet", marks=pytest.mark.thorough)]
)
def ran(request: pytest.FixtureRequest, ground: tuple[Path, dict[str, Tensor]]) -> Iterator[Ran]:
    """The whole way of a study, by its command: one selection run, one pass to time a model."""
    place, given = ground
    ran = Ran(request.param, Layout(place / request.param), given, {})
    build_teacher = stages.untrained_teacher

    def watched(*protocol: Any) -> Network:
        network = build_teacher(*protocol)
        ran.begun.update({name: value.clone() for name, value in export_state(network).items()})
        return network

    with pytest.MonkeyPatch.context() as patch:
        hasten(patch)
        patch.setenv("TORCH_HOME", str(place / "torch"))
        patch.setattr(stages, "untrained_teacher", watched)
        patch.setattr("conductor.stages.confirm.SELECTION_SEEDS", 1)
        patch.setattr("workers.runners.measuring.BATCH_SIZES", (1,))
        patch.setattr("kd.models.cost.WARM_UP_ROUNDS", 1)
        protocol = ["--dataset", f"folder:{place / 'images'}", "--stem", ran.stem]
        size = str(STEMS[ran.stem])
        assert ran.command(*FLAGS.split(), *protocol, "--image-size", size) == 0
        yield ran


@pytest.mark.slow
def test_the_teacher_was_fine_tuned_from_the_imagenet_weights(ran):
    folder = ran.layout.teacher(ran.settings.teachers[0])
    tuned = map_tensors(folder / "weights.safetensors")
    assert {f"body.{name}" for name in ran.begun} == set(tuned)
    assert ran.begun["fc.weight"].shape == (CLASSES, 2048)
    size = ran.begun["conv1.weight"].shape[-1]
    assert size == (3 if ran.stem == "cifar" else 7)
    kernel = fit_kernel(ran.given["conv1.weight"], channels=3, size=size)
    for name, given in {**ran.given, "conv1.weight": kernel}.items():
        assert name.startswith("fc.") or torch.equal(ran.begun[name], given), name
        assert not torch.equal(ran.begun[name], tuned[f"body.{name}"]), name


@pytest.mark.slow
def test_shards_hold_every_stage_of_the_teacher_for_every_image(ran):
    folder = ran.layout.shards(ran.settings.shards[0])
    projections, _ = read_projections(folder)
    shard = map_tensors(view_folder(folder, 0) / "reading.safetensors")
    assert shard["logits"].shape == (TRAIN, CLASSES)
    for tap, (channels, side, _) in ran.shapes("resnet50").items():
        pooled = min(side, 4)
        assert projections[tap].vectors.shape == (channels, 64)
        assert shard[f"{tap}.features"].shape == (TRAIN, 64, pooled, pooled)
        assert shard[f"{tap}.attention"].shape == (TRAIN, side, side)
    assert ran.command("verify") == 0


@pytest.mark.slow
def test_the_epoch_of_the_classic_recipe_has_every_loss(ran):
    record = RunRecord.read(ran.study.trial("scheduled", 0).result)
    [epoch] = record.history
    assert record.recipe == CLASSIC
    assert record.outcome == "complete"
    parts = (epoch.hard_loss, epoch.soft_loss, epoch.feature_loss)
    assert all(math.isfinite(part) and part > 0 for part in parts)
    assert 0.3 < epoch.alpha < 0.9
    assert 1 < epoch.temperature < 5


@pytest.mark.slow
def test_the_confirmed_student_is_a_resnet18_with_its_stages(ran):
    names = {one.name for one in Finalists.read(ran.study.finalists).finalists}
    assert names == {"scheduled-00000"}
    run = ran.study.confirmation("scheduled-00000", 0)
    pixels = STEMS[ran.stem]
    inputs = square(3, pixels)
    student = build("resnet18", classes=CLASSES, inputs=inputs, stem=ran.stem, seed=9)
    student.load_state_dict(map_tensors(run.weights))
    with torch.inference_mode():
        images = torch.zeros(2, *inputs.shape, dtype=inputs.dtype)
        logits, maps = student.eval().forward_taps(images, TAPS)
    assert logits.isfinite().all()
    assert {tap: tuple(each.shape[1:]) for tap, each in maps.items()} == ran.shapes("resnet18")
    tested = map_tensors(run.predictions)
    assert tested["logits"].shape == (HELD_BACK, CLASSES)


@pytest.mark.slow
def test_the_student_is_exported_with_the_stem_that_it_was_trained_with(ran):
    assert ran.command("export") == 0
    [folder] = ran.study.export("x", 0).parent.iterdir()
    config = json.loads((folder / "config.json").read_text())
    assert (config["model"], config["stem"]) == ("resnet18", ran.stem)
    kept = map_tensors(folder / "student.safetensors")
    trained = map_tensors(ran.study.confirmation("scheduled-00000", 0).weights)
    assert {f"body.{name}" for name in kept} == set(trained)
    assert all(torch.equal(kept[name], trained[f"body.{name}"]) for name in kept)
