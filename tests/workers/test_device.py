"""Devices that are not here: given out in turn, shared fairly, and never waited for amid an epoch.

Accelerators are fakes. Tensors of the meta device have shapes and no content, so whatever waits for
content (`.item()`, `float`, `bool`, `.cpu()`) raises there; on a GPU it would stop the device.
"""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from kd.data.examples import Examples
from kd.losses.logits import kl
from kd.names import FEATURE_LOSSES, LOGIT_LOSSES
from kd.recipe import Recipe
from kd.training.loop import train
from kd.training.state import TrainingState
from kd.training.teacher import LiveTeacher, widest_float
from storage.files import shards
from storage.files.shards import CachedTeacher
from tests.support.shards import fill_shard
from tests.support.small import DISTILLED, LOGITS_KEPT, begin, labelled, plan, teacher
from workers import device
from workers.device import (
    accelerator_count,
    choose_device,
    data_room,
    limit_memory,
    memory_share,
)
from workers.pools import local
from workers.pools.local import LocalPool

CPU, META = torch.device("cpu"), torch.device("meta")
DATA = labelled(16)
STEPS = 2  # of an epoch: batches of 8
TAPS = ("last1", "last2")
LOSSES = [
    *((soft, "hint") for soft in LOGIT_LOSSES.names),
    *(("kl", feature) for feature in ("none", *FEATURE_LOSSES.names) if feature != "hint"),
]


class Machine:
    """A machine with accelerators; it keeps what was asked of them."""

    def __init__(self, kind: str, count: int, patch: pytest.MonkeyPatch) -> None:
        self.current: list[torch.device] = []
        self.limits: list[tuple[float, torch.device]] = []
        self.module = SimpleNamespace(
            set_per_process_memory_fraction=lambda *given: self.limits.append(given),
            get_per_process_memory_fraction=lambda of: self.limits[-1][0],
        )
        fakes = {
            "is_available": lambda: count > 0,
            "device_count": lambda: count,
            "current_accelerator": lambda: torch.device(kind),
            "set_device_index": self.current.append,
        }
        for name, fake in fakes.items():
            patch.setattr(torch.accelerator, name, fake)
        patch.setattr(torch, "get_device_module", lambda of: self.module)


def test_a_machine_without_accelerators_computes_on_the_cpu(monkeypatch):
    machine = Machine("cuda", 0, monkeypatch)  # a build for CUDA, and no GPU
    assert [choose_device(slot, 4) for slot in range(4)] == [CPU] * 4
    assert (accelerator_count(), machine.current, machine.limits) == (0, [], [])


def test_accelerators_are_assigned_in_turn_and_become_the_current_ones(monkeypatch):
    machine = Machine("cuda", 2, monkeypatch)
    given = [choose_device(slot, 5) for slot in range(5)]
    assert [str(each) for each in given] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]
    assert machine.current == given


@pytest.mark.parametrize(
    ("count", "workers", "shares"),
    [
        (1, 1, {}),
        (1, 2, {0: 1 / 2, 1: 1 / 2}),
        (2, 2, {}),
        (2, 3, {0: 1 / 2, 2: 1 / 2}),
        (2, 8, dict.fromkeys(range(8), 1 / 4)),
        (4, 2, {}),
    ],
)
@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_workers_on_one_device_may_each_take_an_equal_share_of_its_memory(
    monkeypatch, kind, count, workers, shares
):
    machine = Machine(kind, count, monkeypatch)
    wanted = []
    for slot in range(workers):
        chosen = choose_device(slot, workers)
        wanted += [(shares[slot], chosen)] if slot in shares else []
    assert machine.limits == wanted


@pytest.mark.parametrize(("kind", "share"), [("cuda", 1.0), ("cuda", 0.0), ("mps", 0.5)])
def test_a_whole_device_and_one_that_knows_no_share_are_not_limited(monkeypatch, kind, share):
    machine = Machine(kind, 1, monkeypatch)
    limit_memory(torch.device(kind, 0), share)
    assert machine.limits == []


def test_a_release_of_torch_that_cannot_limit_memory_is_left_unlimited(monkeypatch):
    machine = Machine("xpu", 1, monkeypatch)
    machine.module = SimpleNamespace()
    limit_memory(torch.device("xpu", 0), 0.5)
    assert memory_share(torch.device("xpu", 0)) == 1


def test_the_share_is_the_limit_that_was_set_in_torch(monkeypatch):
    assert memory_share(CPU) == 1
    Machine("cuda", 1, monkeypatch)
    assert memory_share(choose_device(1, 4)) == 1 / 4


def test_a_split_may_fill_a_quarter_of_the_memory_that_a_worker_may_use(monkeypatch):
    monkeypatch.setattr(device, "usable_memory", lambda: 16_000)
    assert data_room(CPU) == 4_000
    machine = Machine("cuda", 1, monkeypatch)
    machine.module.get_device_properties = lambda of: SimpleNamespace(total_memory=80_000)
    assert data_room(choose_device(1, 4)) == 5_000
    machine.module.get_device_properties = lambda of: SimpleNamespace()  # reports no memory
    assert data_room(torch.device("cuda", 0)) == 4_000


class FakeContext:
    """Starts no process; keeps what each would have been started with."""

    def __init__(self) -> None:
        self.started: list[Any] = []

    def Pipe(self, duplex: bool = True) -> tuple[Any, Any]:  # noqa: N802
        end = SimpleNamespace(close=lambda: None)
        return end, end

    def Process(self, *, target: Any, args: Any, name: str, daemon: bool) -> Any:  # noqa: N802
        self.started.append((target, args[2:]))
        return SimpleNamespace(start=lambda: None)


@pytest.mark.parametrize(("size", "told"), [(3, [(0, 3), (2, 3)]), (None, [(0, 1), (2, 1)])])
def test_a_worker_receives_the_number_of_workers(monkeypatch, size, told):
    pool, context = LocalPool(size), FakeContext()
    monkeypatch.setattr(pool, "_context", context)
    pool._launch(0)
    pool._launch(2)
    assert context.started == [(local.serve, each) for each in told]


def test_a_worker_takes_the_device_of_its_slot_among_all(monkeypatch):
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(device, "choose_device", lambda *given: asked.append(given))
    monkeypatch.setattr(local, "_exit_after", lambda lifeline: None)
    monkeypatch.setattr(local, "_send", lambda connection, message: None)

    def hang_up(connection: Any) -> Any:
        raise EOFError

    monkeypatch.setattr(local, "_receive", hang_up)
    with pytest.raises(EOFError):
        local.serve(None, None, 5, 8)  # type: ignore[arg-type]
    assert asked == [(5, 8)]


@pytest.fixture(scope="module")
def live() -> LiveTeacher:
    return teacher(DATA, labelled(12, seed=1))


@pytest.fixture(scope="module")
def elsewhere(live) -> LiveTeacher:
    """The same teacher on the meta device."""
    projections = {tap: each.to(META) for tap, each in live.projections.items()}
    network = copy.deepcopy(live.network).to(META)
    return LiveTeacher(network, projections, live.validation_logits)


@pytest.fixture(scope="module")
def cache(live, tmp_path_factory) -> Any:
    """The folder of a cache of one view, of other images, which changes no shape."""
    folder = tmp_path_factory.mktemp("cache") / "shards"
    shards.begin(folder, {"taps": TAPS}, live.projections, live.validation_logits, {})
    images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    fill_shard(folder, 0, [live.read(0, torch.arange(16), images, tuple(live.projections))])
    return folder


def steps_without_waiting(recipe: Recipe, source: Any) -> int:
    """Train on the meta device until something waits for it; return how many steps had begun."""
    state = begin(recipe, source)
    state = TrainingState.start(state.network.to(META), state.adapters.to(META), recipe)
    asked = iter(range(100))
    data: Examples = DATA.to(META)
    with pytest.raises(RuntimeError, match="meta tensor"):
        next(train(state, recipe, plan(views=(0,)), data, data, source, lambda: next(asked) < 0))
    return next(asked)


def distilled(soft: str, feature: str) -> Recipe:
    taps = () if feature == "none" else TAPS
    return Recipe(
        lr=0.05,
        soft_kind=soft,
        temperature=DISTILLED.temperature,
        alpha=DISTILLED.alpha,
        feature_kind=feature,
        feature_weight=1.0 if taps else 0.0,
        feature_taps=taps,
    )


@pytest.mark.parametrize(("soft", "feature"), LOSSES)
@pytest.mark.parametrize("kind", ["live", "cached"])
def test_no_step_of_an_epoch_waits_for_the_device(elsewhere, cache, kind, soft, feature):
    source = elsewhere if kind == "live" else CachedTeacher(cache, META)
    assert steps_without_waiting(distilled(soft, feature), source) == STEPS


@pytest.mark.parametrize("kept", LOGITS_KEPT)
def test_no_step_waits_for_the_device_whatever_is_kept_of_logits(live, elsewhere, tmp_path, kept):
    rounded = LiveTeacher(
        elsewhere.network, elsewhere.projections, elsewhere.validation_logits, kept
    )
    shards.begin(tmp_path, {}, live.projections, live.validation_logits, {})
    images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    fill_shard(tmp_path, 0, [live.read(0, torch.arange(16), images, ())], kept)
    for source in (rounded, CachedTeacher(tmp_path, META, kept)):
        assert steps_without_waiting(distilled("kl", "none"), source) == STEPS


def test_no_step_without_distillation_waits_for_the_device():
    assert steps_without_waiting(Recipe(), None) == STEPS


@pytest.mark.parametrize("wait", [Tensor.item, Tensor.tolist, Tensor.cpu, float, bool])
def test_a_loss_that_waits_would_be_noticed(elsewhere, monkeypatch, wait):
    original = kl.loss

    def waiting(*given: Any) -> Tensor:
        loss = original(*given)
        wait(loss)
        return loss

    monkeypatch.setattr(kl, "loss", waiting)
    assert steps_without_waiting(distilled("kl", "none"), elsewhere) == 1


@pytest.mark.parametrize(
    ("kind", "double", "widest"),
    [
        ("cpu", True, torch.float64),
        ("cuda", True, torch.float64),
        ("mps", True, torch.float32),
        ("xpu", True, torch.float64),
        ("xpu", False, torch.float32),
    ],
)
def test_a_device_without_float64_uses_float32(monkeypatch, kind, double, widest):
    properties = SimpleNamespace(has_fp64=double)
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda of: properties)
    assert widest_float(torch.device(kind)) == widest


def test_rows_of_a_shard_are_copied_beside_the_computing_where_memory_is_pinned(cache, monkeypatch):
    pinned: list[tuple[int, ...]] = []
    copies: list[bool] = []
    real = Tensor.to

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(tuple(tensor.shape))
        return tensor

    def to(tensor: Tensor, *given: Any, non_blocking: bool = False, **more: Any) -> Tensor:
        copies.append(non_blocking)
        return real(tensor, *given, **more)

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(Tensor, "to", to)
    CachedTeacher(cache, META).read(0, torch.arange(4), torch.empty(0), ("last1",))
    assert (pinned, copies) == ([], [False] * 3)
    monkeypatch.setattr(shards, "PINNING", ("meta",))
    CachedTeacher(cache, META).read(0, torch.arange(4), torch.empty(0), ("last1",))
    assert len(pinned) == 3
    assert copies[3:] == [True] * 3
