"""The job that tests models that are not of the catalogue, before the study trains them.

Before the data are read, they are built and run on shapes alone, which finds most faults at once.
With data, `kd.models.tryout` checks a model's outputs; then the model is trained, saved, resumed,
evaluated, measured and, if it is a student, exported.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from kd.data.inputs import Images
from kd.dataset_names import takes_images
from kd.errors import DivergenceError, ProtocolError, RetortError
from kd.losses.adapters import Adapters
from kd.models import cost
from kd.models.build import build, check_exists
from kd.models.network import Network, load_state, same
from kd.models.numerics import place, training_forward
from kd.models.own import refusal
from kd.models.tryout import refusing, try_out, try_shapes
from kd.names import parse_model
from kd.recipe import Recipe
from kd.training.evaluation import predict
from kd.training.loop import Plan, train
from kd.training.state import TrainingState
from storage.files.checkpoints import read_checkpoint, write_checkpoint
from storage.files.tensors import map_tensors, write_tensors
from workers.events import Event, Result, ShouldStop
from workers.jobs import ModelsJob
from workers.runners.exporting import COMPARED, check_batching, describe, write_student
from workers.runners.loading import build_network, dataset_info, open_parts

BATCH = 4  # images of a batch, at most
CHANNELS = (3, 1)  # of images that have not been read: the first that a model takes
SOME_CLASSES = 10  # of data that have not been read
RECIPE = Recipe(lr=0.01)


def run_models(job: ModelsJob, device: torch.device, stopped: ShouldStop) -> Iterator[Event]:
    """Test models of libraries and user files. Raises ProtocolError for the first that fails."""
    protocol = job.protocol
    sizes = {True: protocol.teacher_size or protocol.image_size, False: protocol.image_size}
    alone = [job.with_teacher(place) for place in range(len(protocol.teachers))]
    tasks = [(one, one.protocol.teacher, True) for one in alone]
    for task, name, teacher in (*tasks, *((job, name, False) for name in protocol.students)):
        if parse_model(name).in_catalogue:
            continue
        if job.dataset:
            Tryout(task, name, device, teacher=teacher).run()
        else:
            _try_without_data(task, name, sizes[teacher])
    yield Result.of()


def _try_without_data(job: ModelsJob, name: str, size: int) -> None:
    """Check the model's name and, if the data are images, run it on shapes.

    The number of channels is unknown, and so one of 3 and 1 must do. Raises ProtocolError.
    """
    check_exists(parse_model(name), job.layout.own)
    if not takes_images(job.protocol.dataset):
        return
    errors = list[ProtocolError]()
    for channels in CHANNELS:
        constants = (0.5,) * channels
        make = partial(
            build,
            name,
            classes=SOME_CLASSES,
            inputs=Images(shape=(channels, size, size), mean=constants, deviation=constants),
            stem=job.protocol.stem,
            seed=0,
            files=job.layout.own,
        )
        try:
            try_shapes(name, make, classes=SOME_CLASSES, files=job.layout.own)
        except ProtocolError as error:
            errors.append(error)
        else:
            return
    raise errors[0]


class Tryout:
    """Tests the model `name`, as teacher or as student, on the device that trains it."""

    def __init__(self, job: ModelsJob, name: str, device: torch.device, *, teacher: bool) -> None:
        self._job = job
        self._name = name
        self._device = device
        self._teacher = teacher
        self._train_split, validation = open_parts(job, device)
        self._train_images = self._train_split.first(2 * BATCH)
        self._validation = validation.first(COMPARED)
        self._on_cpu = self._validation.to(torch.device("cpu"))

    def run(self) -> None:
        """Raise ProtocolError, in one line, for the first thing that the model cannot do."""
        trains = not self._teacher or self._job.protocol.teacher_epochs > 0
        make = partial(self._built, torch.device("cpu"))
        files = self._job.layout.own
        few, classes = self._on_cpu.values[:2], len(dataset_info(self._job)["classes"])
        try_out(self._name, make, few, classes=classes, files=files)
        with TemporaryDirectory() as folder:
            network = self._train(Path(folder)) if trains else self._built()
            batch = self._train_split.first(self._job.protocol.batch_size).values
            with self._refusing("does not take a batch of the study"), torch.no_grad():
                fresh = self._built().train(trains)
                fresh.forward_taps(batch, fresh.taps)
            if trains and self._job.protocol.compile:
                self._compile(batch)
            with self._refusing("cannot be kept and evaluated"):
                write_tensors(Path(folder) / "weights.safetensors", network.state_dict())
                again = self._built(torch.device("cpu"))
                tensors = map_tensors(Path(folder) / "weights.safetensors")
                load_state(again, tensors, "a file of its weights", self._name)
                again.eval()
                check_batching(again, self._on_cpu.values, predict(again, self._on_cpu))
            with self._refusing("cannot be measured"):
                cost.macs(network)
                cost.state_bytes(network)
                place(copy.deepcopy(network), self._device)(self._validation.values)
            if not self._teacher:
                with self._refusing("cannot be exported"):
                    config = describe(self._job, again)
                    again.requires_grad_(False)
                    write_student(Path(folder) / "export", again, config, files, self._on_cpu)

    def _built(self, device: torch.device | None = None) -> Network:
        return place(
            build_network(self._job, self._name, teacher=self._teacher), device or self._device
        )

    def _train(self, folder: Path) -> Network:
        """Train two epochs, repeat the second from a checkpoint, and return the network."""
        path, batch = folder / "checkpoint.safetensors", min(BATCH, self._job.protocol.batch_size)
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
        few = self._validation.first(2 * BATCH)
        with self._refusing("cannot be trained"):
            whole, resumed = self._fresh_state(), self._fresh_state()
            with suppress(DivergenceError):  # a result of a recipe, not of the model alone
                for _ in train(whole, RECIPE, plan, self._train_images, few):
                    if whole.epoch == 1:
                        write_checkpoint(path, {}, whole.tensors(), whole.history)
        if whole.epoch == plan.epochs:
            with self._refusing("cannot be resumed from a checkpoint"):
                resumed.restore(*read_checkpoint(path, {}))
                list(train(resumed, RECIPE, plan, self._train_images, few))
            self._compare(whole.tensors(), resumed.tensors())
        return whole.network

    def _compile(self, batch: torch.Tensor) -> None:
        """Compile forward and backward pass of a batch, which takes from seconds to minutes.

        The compiler keeps what it made on the disk, where later runs find it.
        """
        network = self._built().train()
        with self._refusing("cannot be compiled; use --no-compile"):
            precision = self._job.protocol.precision
            forward = training_forward(network, self._device, precision, compiled=True)
            logits, taps = forward(batch, network.taps)
            sum((tap.sum() for tap in taps.values()), logits.sum()).backward()

    def _fresh_state(self) -> TrainingState:
        network = self._built()
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise self._refused("has no parameter that is trained: all are frozen")
        protocol = self._job.protocol
        optimizer = protocol.teacher_optimizer if self._teacher else protocol.optimizer
        ema = 0.0 if self._teacher else protocol.ema
        return TrainingState.start(network, Adapters({}, {}, seed=0), RECIPE, optimizer, ema)

    def _compare(self, whole: dict[str, torch.Tensor], resumed: dict[str, torch.Tensor]) -> None:
        """Raise ProtocolError if a resumed run differs; on accelerators rounding may differ."""
        differing = [name for name in whole if not same(whole[name], resumed[name])]
        if differing and self._device.type == "cpu":
            raise self._refused(
                "has state that its state dict lacks (a number, a buffer that is not "
                "persistent), or draws random numbers of its own: resumed after an epoch, "
                f"{differing[0]} differs"
            )

    @contextmanager
    def _refusing(self, what: str) -> Iterator[None]:
        """Turn any exception of the block into an error: the model, then `what` it cannot do."""
        try:
            with refusing(self._name, self._job.layout.own, what):
                yield
        except ProtocolError:
            raise
        except RetortError as error:
            raise self._refused(f"{what}: {error}") from error

    def _refused(self, what: str) -> ProtocolError:
        return refusal(self._name, self._job.layout.own, what)
