"""mixup and cutmix: partners of the same view, labels by share, and a cache of the mixed image."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kd.data.examples import Examples
from kd.data.labels import MixedLabels, targets
from kd.data.views import augment_digest, render
from kd.errors import ProtocolError
from kd.losses.hard import hard
from kd.names import mixes
from kd.training.loop import train
from search_spaces.context import StudyContext
from search_spaces.space import load_space
from storage.files import shards
from tests.support.shards import fill_shard
from tests.support.small import (
    CLASSES,
    DISTILLED,
    PLAIN,
    TAPS,
    begin,
    copied,
    labelled,
    plan,
    protocol,
    same_bits,
    teacher,
)

DATA, VALIDATION = labelled(24), labelled(12, seed=1)
BOTH = "crop=1,flip,mixup=1,cutmix=1"
KINDS = pytest.mark.parametrize("text", ["crop=1,flip,mixup=1", "crop=1,flip,cutmix", BOTH])


@settings(max_examples=30, deadline=None)
@given(
    text=st.sampled_from(["mixup=0.2", "crop=1,cutmix", "trivial,erase=0.9,mixup=1,cutmix"]),
    count=st.integers(1, 12),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_an_image_is_mixed_with_its_partner_as_that_is_augmented(
    text: str, count: int, seed: int, data: st.DataObject
) -> None:
    """Computed from the whole split that is augmented without mixing, pixel by pixel."""
    examples = labelled(count, channels=3, seed=seed)
    rows = examples.view(seed, 2, text)
    mixture = rows.mixture
    assert mixture is not None
    augmented = render(examples.values, replace(rows, mixture=None)).double()
    others = augmented[mixture.partner]
    index = torch.tensor(data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=9)))
    [(images, _)] = examples.batches([index], rows)
    found = images.double()
    for place, row in enumerate(index.tolist()):
        share = float(mixture.share[row])
        part = mixture.members[int(mixture.chosen[row])]
        if "top" in part.drawn:
            inside = torch.zeros(8, 8, dtype=torch.bool)
            top, left = int(part.drawn["top"][row]), int(part.drawn["left"][row])
            tall, wide = int(part.drawn["height"][row]), int(part.drawn["width"][row])
            inside[top : top + tall, left : left + wide] = True
            assert share == 1 - int(inside.sum()) / 64
            expected = torch.where(inside, others[row], augmented[row])
        else:
            mean = share * augmented[row] + (1 - share) * others[row]
            expected = (mean + 0.5).floor()
        assert torch.equal(found[place], expected)


def test_partners_are_rows_of_the_whole_split_fixed_by_seed_and_view() -> None:
    def partners(seed: int, k: int) -> list[int]:
        mixture = DATA.view(seed, k, "mixup").mixture
        assert mixture is not None
        return mixture.partner.tolist()

    assert partners(1, 2) == partners(1, 2)
    assert partners(1, 2) != partners(1, 3) != partners(2, 3)
    assert sorted(partners(1, 2)) == list(range(24))


def test_each_image_takes_one_of_two_kinds_by_a_fair_coin() -> None:
    mixture = labelled(2000).view(0, 0, "mixup,cutmix").mixture
    assert mixture is not None
    assert mixture.chosen.double().mean() == pytest.approx(0.5, abs=0.04)
    for place, part in enumerate(mixture.members):
        own = mixture.chosen == place
        assert torch.equal(mixture.share[own], part.drawn["share"][own])
        assert torch.equal(mixture.partner[own], part.drawn["partner"][own])


def test_other_augmentations_draw_the_same_with_and_without_mixing() -> None:
    alone, mixed = (DATA.view(7, 2, f"crop=1,flip{more}") for more in ("", ",cutmix"))
    for one, other in zip(alone.parts, mixed.parts, strict=True):
        assert all(torch.equal(drawn, other.drawn[name]) for name, drawn in one.drawn.items())


def test_the_digest_of_an_augmentation_covers_shares(monkeypatch) -> None:
    """Labels follow them, so that a teacher depends on them where the pixels do not."""
    before = augment_digest("mixup", 8)
    assert augment_digest("mixup", 8) == before != augment_digest("mixup=0.3", 8)
    monkeypatch.setattr("kd.augmentations.mixup.mix", lambda batch, *_: batch)
    same_pixels = {augment_digest(text, 8) for text in ("mixup=0.2", "mixup=0.3")}
    assert len(same_pixels) == 2


# The losses.


def case(classes: int = 5, seed: int = 0) -> tuple[Tensor, MixedLabels]:
    generator = torch.Generator().manual_seed(seed)
    labels, partners = torch.randint(0, classes, (2, 9), generator=generator)
    share = torch.rand(9, generator=generator, dtype=torch.float64)
    logits = torch.randn(9, classes, generator=generator, dtype=torch.float64, requires_grad=True)
    return logits, MixedLabels(labels, partners, share)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_hard_loss_and_smoothing_follow_the_share(smoothing: float) -> None:
    logits, labels = case()
    total = 0.0
    for row in range(9):
        log = logits[row].log_softmax(0).tolist()
        share = float(labels.share[row])
        for c in range(5):
            own, other = (c == int(part[row]) for part in (labels.labels, labels.partners))
            target = (1 - smoothing) * (share * own + (1 - share) * other) + smoothing / 5
            total -= target * log[c]
    assert hard(logits, labels, smoothing).item() == pytest.approx(total / 9, rel=1e-12)
    soft = targets(labels, 5)
    assert torch.allclose(soft.sum(1), torch.ones(9, dtype=torch.float64))
    expected = torch.nn.functional.cross_entropy(logits, soft, label_smoothing=smoothing)
    assert hard(logits, labels, smoothing).item() == pytest.approx(expected.item(), rel=1e-12)
    assert torch.autograd.gradcheck(lambda one: hard(one, labels, smoothing), [logits])


def test_an_image_that_keeps_its_label_has_the_loss_of_that_label() -> None:
    logits, labels = case()
    whole = MixedLabels(labels.labels, labels.partners, torch.ones(9))
    assert hard(logits, whole, 0.1).item() == pytest.approx(hard(logits, labels.labels, 0.1).item())
    assert torch.equal(targets(whole, 5), targets(labels.labels, 5))


class Spy:
    """A soft loss that keeps the labels that it received."""

    def __init__(self) -> None:
        self.labels: list[Tensor] = []

    def loss(self, student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
        self.labels.append(labels)
        return (student - teacher).square().mean()


@KINDS
def test_training_weighs_labels_by_share_and_gives_soft_losses_the_shares(
    text: str, monkeypatch
) -> None:
    live, spy, given = teacher(DATA, VALIDATION), Spy(), plan(epochs=1, batch_size=24, augment=text)
    monkeypatch.setattr("kd.losses.logits.load", lambda *_: spy)
    network = begin(PLAIN, None).network
    recipe = replace(DISTILLED, label_smoothing=0.1)
    (metrics,) = train(begin(recipe, live), recipe, given, DATA, VALIDATION, live)
    rows = DATA.view(given.view_seed, 0, text)
    mixture = rows.mixture
    assert mixture is not None
    network.train()
    log = network(render(DATA.values, rows)).log_softmax(1).detach()
    total = 0.0
    expected = torch.zeros(24, CLASSES)
    for row in range(24):
        share, partner = float(mixture.share[row]), int(mixture.partner[row])
        expected[row, DATA.labels[row]] += share
        expected[row, DATA.labels[partner]] += 1 - share
        total -= float((log[row] * (0.9 * expected[row] + 0.1 / CLASSES)).sum())
    assert metrics.hard_loss == pytest.approx(total / 24, rel=1e-4)
    (received,) = spy.labels
    assert torch.allclose(received.sort(0).values, expected.sort(0).values)


@KINDS
def test_the_cached_reading_is_that_of_the_mixed_image(text: str, tmp_path) -> None:
    """Training from shards that were filled in other batches equals that with the live teacher."""
    live = teacher(DATA, VALIDATION)
    recipe = replace(
        DISTILLED, feature_kind="hint", feature_weight=1.0, feature_taps=("last1", "last2")
    )
    given = plan(augment=text)
    sizes = {"logits": 1, "features": 1}
    shards.begin(tmp_path / "x", {"a": 1}, live.projections, live.validation_logits, sizes)
    for k in given.views:
        order = torch.arange(24).split(8)
        batches = DATA.batches(order, DATA.view(given.view_seed, k, text))
        chunks = [
            live.read(k, index, images, TAPS)
            for index, (images, _) in zip(order, batches, strict=True)
        ]
        fill_shard(tmp_path / "x", k, chunks)
    cached = shards.CachedTeacher(tmp_path / "x", torch.device("cpu"))
    ends = []
    for source in (live, cached):
        state = begin(recipe, live)
        history = list(train(state, recipe, given, DATA, VALIDATION, source))
        ends.append((copied(state.tensors()), [replace(one, seconds=0.0) for one in history]))
    assert same_bits(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]
    assert all(math.isfinite(one.hard_loss) for one in ends[0][1])


def test_a_run_that_is_resumed_mixes_alike() -> None:
    given = plan(augment=BOTH)
    whole, half = begin(PLAIN, None), begin(PLAIN, None)
    list(train(whole, PLAIN, given, DATA, VALIDATION))
    next(iter(train(half, PLAIN, given, DATA, VALIDATION)))
    other = begin(PLAIN, None)
    other.restore(copied(half.tensors()), half.history)
    list(train(other, PLAIN, given, DATA, VALIDATION))
    assert same_bits(copied(whole.tensors()), copied(other.tensors()))


# What a study may combine with it.

DKD = """
from kd.recipe import Recipe, Schedule
ENQUEUED = {}
def suggest(trial, study):
    kind = "kl" if study.mixing and CAREFUL else "dkd"
    alpha = Schedule.constant(trial.suggest_float("alpha", 0, 1))
    return Recipe(soft_kind=kind, alpha=alpha)
"""


def test_dkd_with_mixing_is_refused_in_one_line(tmp_path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(DKD.replace("CAREFUL", "False"))
    load_space(str(file), StudyContext())
    message = "soft_kind=dkd, which needs one label for each image, and --augment mixes images: use"
    with pytest.raises(ProtocolError, match=message) as raised:
        load_space(str(file), StudyContext(mixing=True))
    assert "\n" not in str(raised.value)
    file.write_text(DKD.replace("CAREFUL", "True"))
    load_space(str(file), StudyContext(mixing=True))


@pytest.mark.parametrize("name", ["scheduled", "constant", "plain"])
def test_built_in_spaces_suit_a_study_that_mixes(name: str) -> None:
    load_space(name, StudyContext(mixing=True))


def test_whether_an_augmentation_mixes_is_known_without_torch() -> None:
    texts = {text: mixes(protocol(augment=text).augment) for text in ("none", "flip", BOTH)}
    assert texts == {"none": False, "flip": False, BOTH: True}


def test_a_part_of_the_split_has_partners_in_that_part() -> None:
    few: Any = DATA.first(5)
    assert isinstance(few, Examples)
    mixture = few.view(0, 0, "cutmix").mixture
    assert mixture is not None
    assert int(mixture.partner.max()) < 5
    [(_, labels)] = few.batches([torch.arange(5)], few.view(0, 0, "cutmix"))
    assert isinstance(labels, MixedLabels)
    assert torch.equal(labels.partners, few.labels[mixture.partner])
