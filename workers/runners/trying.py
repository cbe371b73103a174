"""Test the user's own model on a few images: everything that a study will do with it.

`kd.models.own.try_out` has already checked its outputs. Here it is trained, saved, resumed,
evaluated, measured and, if it is a student, exported, before the study trains it.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from kd.data.inputs import Examples
from kd.errors import DivergenceError, ProtocolError, RetortError
from kd.losses.adapters import Adapters
from kd.models import cost
from kd.models.network import Network, load_state, same
from kd.models.numerics import place
from kd.models.own import OUT_OF_MEMORY, refusal
from kd.recipe import Recipe
from kd.training.evaluation import predict
from kd.training.loop import Plan, TrainingState, train
from storage.files.checkpoints import read_checkpoint, write_checkpoint
from storage.files.tensors import map_tensors, write_tensors
from workers.jobs import ModelsJob
from workers.runners.exporting import COMPARED, check_batching, describe, write_student
from workers.runners.loading import build_network, open_parts

IMAGES = 4  # of a batch, at most
RECIPE = Recipe(lr=0.01)


class Tryout:
    """One model, `name`, of the protocol of `job`, on the device that trains."""

    def __init__(self, job: ModelsJob, name: str, device: torch.device) -> None:
        self._job = job
        self._name = name
        self._device = device
        self._whole, validation = open_parts(job.layout, job.dataset, device)
        self._data, self._some = self._whole.first(2 * IMAGES), validation.first(COMPARED)

    def run(self, *, trains: bool, exports: bool) -> None:
        """Raise ProtocolError, in one line, for the first thing that the model cannot do."""
        with TemporaryDirectory() as folder:
            network = self._train(Path(folder)) if trains else self._built()
            with self._refusing("does not take a batch of the study"), torch.no_grad():
                batch = self._whole.first(self._job.protocol.batch_size)
                self._built().train(trains)(batch.fed())
            with self._refusing("cannot be kept and evaluated"):
                write_tensors(Path(folder) / "weights.safetensors", network.state_dict())
                again = self._built(torch.device("cpu"))
                tensors = map_tensors(Path(folder) / "weights.safetensors")
                load_state(again, tensors, "a file of its weights", self._name)
                self._evaluate(again.eval())
            with self._refusing("cannot be measured"):
                cost.macs(network, self._data.inputs)
                cost.state_bytes(network)
                place(copy.deepcopy(network), self._device)(self._some.fed())
            if exports:
                with self._refusing("cannot be exported"):
                    self._export(again.requires_grad_(False), Path(folder) / "export")

    def _built(self, device: torch.device | None = None) -> Network:
        job = self._job
        network = build_network(
            job.protocol, job.layout, job.dataset, name=self._name, weights="none", seed=0
        )
        return place(network, device or self._device)

    def _train(self, folder: Path) -> Network:
        """Train two epochs, and once more from the checkpoint of the first; return the network."""
        path, batch = folder / "checkpoint.safetensors", min(IMAGES, self._job.protocol.batch_size)
        plan = Plan.of(
            self._job.protocol,
            epochs=2,
            batch_size=batch,
            view_seed=0,
            views=(0, 1),
            seed=0,
            metric="accuracy",
            compile=False,
        )
        few = self._some.first(2 * IMAGES)
        with self._refusing("cannot be trained"):
            whole, resumed = self._begun(), self._begun()
            with suppress(DivergenceError):  # a result of a recipe, not of the model alone
                for _ in train(whole, RECIPE, plan, self._data, few):
                    if whole.epoch == 1:
                        write_checkpoint(path, {}, whole.tensors(), whole.history)
        if whole.epoch == plan.epochs:
            with self._refusing("cannot go on from a checkpoint"):
                resumed.restore(*read_checkpoint(path, {}))
                list(train(resumed, RECIPE, plan, self._data, few))
            self._compare(whole.tensors(), resumed.tensors())
        return whole.network

    def _begun(self) -> TrainingState:
        network = self._built()
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise self._refused("has no parameter that learns: all are frozen")
        optimizer = self._job.protocol.optimizer
        return TrainingState.start(network, Adapters({}, {}, seed=0), RECIPE, optimizer)

    def _compare(self, whole: dict[str, torch.Tensor], resumed: dict[str, torch.Tensor]) -> None:
        """Raise ProtocolError if a resumed run is another; accelerators may round as they like."""
        other = [name for name in whole if not same(whole[name], resumed[name])]
        if other and self._device.type == "cpu":
            raise self._refused(
                "keeps something that its state dict lacks (a number, a buffer that is not "
                f"persistent): resumed after an epoch it comes to another {other[0]}"
            )

    def _evaluate(self, network: Network) -> None:
        check_batching(network, self._on_cpu().fed(), predict(network, self._on_cpu()))

    def _export(self, network: Network, folder: Path) -> None:
        job = self._job
        config = describe(job.protocol, job.layout, job.dataset, self._name)
        write_student(folder, network, config, job.layout.own, self._on_cpu())

    def _on_cpu(self) -> Examples:
        return self._some.to(torch.device("cpu"))

    @contextmanager
    def _refusing(self, what: str) -> Iterator[None]:
        """Turn whatever the block raises into an error that says `what` of the model."""
        try:
            yield
        except (*OUT_OF_MEMORY, OSError, ProtocolError):
            raise
        except RetortError as error:
            raise self._refused(f"{what}: {error}") from error
        except (Exception, SystemExit) as error:
            raise self._refused(what, error) from error

    def _refused(self, what: str, error: BaseException | None = None) -> RetortError:
        return refusal(self._name, self._job.layout.own, what, error)
