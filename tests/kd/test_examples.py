"""A split that does not fit into its share of memory comes batch by batch, with the same values."""

import threading
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kd.data.examples import Examples
from kd.data.labels import Labels, MixedLabels
from kd.models.build import Network
from kd.training.early import batch_logits
from kd.training.evaluation import predict
from kd.training.loop import train
from kd.training.teacher import fit_projections
from tests.support.small import DISTILLED, TAPS, begin, labelled, network, plan, same_bits, teacher

CPU = torch.device("cpu")
DATA, VALIDATION = labelled(40), labelled(24, seed=1)


def streamed(data: Examples) -> Examples:
    return data.to(CPU, room=data.values.nbytes - 1)


def equal(left: Labels, right: Labels) -> bool:
    if isinstance(left, MixedLabels) and isinstance(right, MixedLabels):
        pairs = [
            (left.labels, right.labels),
            (left.partners, right.partners),
            (left.share, right.share),
        ]
    else:
        assert isinstance(left, Tensor)
        assert isinstance(right, Tensor)
        pairs = [(left, right)]
    return all(torch.equal(one, other) for one, other in pairs)


def test_a_split_is_streamed_only_if_it_does_not_fit() -> None:
    assert not DATA.to(CPU, room=DATA.values.nbytes).streamed
    assert not DATA.to(CPU).streamed
    assert streamed(DATA).streamed
    assert not streamed(DATA).to(CPU).streamed


@pytest.mark.parametrize("augment", ["none", "crop=1,flip", "flip,mixup=0.4,cutmix=1"])
def test_streamed_batches_equal_those_in_memory(augment: str) -> None:
    order = list(torch.randperm(40, generator=torch.Generator().manual_seed(0)).split(7))
    rows = DATA.view(3, 0, augment)
    found = list(streamed(DATA).batches(order, rows))
    assert len(found) == 6
    for (images, labels), (wanted, targets) in zip(found, DATA.batches(order, rows), strict=True):
        assert torch.equal(images, wanted)
        assert equal(labels, targets)


def test_streamed_values_are_gathered_by_another_thread_a_few_batches_ahead() -> None:
    threads: list[str] = []

    class Seen(Tensor):
        def index_select(self, *given: object) -> Tensor:
            threads.append(threading.current_thread().name)
            return super().index_select(*given)

    data = replace(streamed(DATA), values=DATA.values.as_subclass(Seen))
    batches = data.batches(torch.arange(40).split(4), DATA.view(0, 0, "none"))
    next(batches)
    assert 1 <= len(threads) <= 4
    list(batches)
    assert len(threads) == 10
    assert threading.current_thread().name not in threads


def test_an_error_while_a_batch_is_gathered_is_raised() -> None:
    beyond = [torch.tensor([0]), torch.tensor([40])]
    with pytest.raises(IndexError):
        list(streamed(DATA).batches(beyond, DATA.view(0, 0, "none")))


def test_a_student_trained_on_streamed_examples_has_the_same_bits() -> None:
    live = teacher(DATA, VALIDATION)
    ends = []
    for data, validation in ((DATA, VALIDATION), (streamed(DATA), streamed(VALIDATION))):
        state = begin(DISTILLED, live)
        given = plan(augment="flip,mixup=0.4")
        epochs = list(train(state, DISTILLED, given, data, validation, live))
        ends.append((state.tensors(), [replace(one, seconds=0) for one in epochs]))
    (tensors, history), (others, other) = ends
    assert history == other
    assert same_bits(tensors, others)


def test_what_reads_a_whole_split_reads_a_streamed_one() -> None:
    model: Network = network(seed=3)
    assert torch.equal(predict(model, DATA), predict(model, streamed(DATA)))
    whole, parts = (batch_logits(model, data, 1000) for data in (DATA, streamed(DATA)))
    assert whole is not None
    assert parts is not None
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))
    fitted, others = (fit_projections(model, data, TAPS) for data in (DATA, streamed(DATA)))
    for tap in TAPS:
        assert torch.equal(fitted[tap].vectors, others[tap].vectors)


def test_a_few_examples_of_a_streamed_split_are_on_the_device() -> None:
    few = streamed(DATA).first(3)
    assert not few.streamed
    assert torch.equal(few.values, DATA.values[:3])
    some = streamed(DATA).at(torch.tensor([5, 2]))
    assert torch.equal(some.values, DATA.values[[5, 2]])
    assert torch.equal(some.labels, DATA.labels[[5, 2]])
