"""A soft loss of the user's own: a function in a file, found in its copy, called and tried out.

    def squared(student, teacher, labels, temperature):
        return (student.logits - teacher.logits).square().mean()

`student.logits` and `teacher.logits` are [B, C] float32, raw. `student.taps["last1"]` is the
student's map [B, C, h, w], `teacher.taps["last1"]` the teacher's `TapReading`, with `features`
[B, k, h, w], projected, and `attention` [B, H, W]; both have all taps of the study. `labels` are
[B] int64; where the study mixes images, [B, C] float32 shares, which `cross_entropy` takes too.
The function returns a scalar tensor, which alpha weighs; a factor of temperature² is its own part.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from kd.data.labels import MixedLabels, targets
from kd.errors import ProtocolError
from kd.models.own import OUT_OF_MEMORY
from kd.models.taps import TapReading
from kd.names import OwnFunction
from kd.own_files import find_kept, own_error

T = TypeVar("T")
TEMPERATURES = (1.0, 4.0)  # that a loss is tried out with
AGAIN = "run the same command again"
SHARES = "the labels of mixed images, which are shares [B, classes] float32"


class Taps(dict[str, T]):
    """The outputs at the taps of a study, by name; another name is an error that lists them."""

    def __missing__(self, tap: object) -> T:
        known = f"it has {', '.join(self)}" if self else "it has none"
        raise ProtocolError(f"it reads the tap {tap!r}, which the study lacks: {known} (--taps)")


@dataclass(frozen=True, slots=True, eq=False)
class Output(Generic[T]):
    """What a network returned for a batch: `logits` [B, C], and what was read at its taps."""

    logits: Tensor
    taps: Taps[T]

    @classmethod
    def of(cls, logits: Tensor, taps: Mapping[str, T]) -> "Output[T]":
        return cls(logits, Taps(taps))


@dataclass(frozen=True, slots=True)
class OwnLoss:
    """The user's function, called with the outputs of both networks; errors name file and line."""

    name: OwnFunction
    function: Callable[..., Any]

    @classmethod
    def find(cls, name: OwnFunction, files: Path) -> "OwnLoss":
        """Return the loss from the copy of its file below `files`.

        Raises ArtifactError when the copy is missing or changed; ProtocolError, in one line, for a
        file that does not import, a missing function, and one with other arguments.
        """
        own = cls(name, find_kept(files, name.file, name.digest, name.function))
        try:
            inspect.signature(own.function).bind(*range(4))
        except TypeError as error:
            raise own.refused(f"must take student, teacher, labels, temperature: {error}") from None
        return own

    def __call__(
        self,
        student: Output[Tensor],
        teacher: Output[TapReading],
        labels: Tensor,
        temperature: float,
    ) -> Tensor:
        """Return the loss of a batch, a scalar in the dtype of the student's logits."""
        # A run that has begun cannot continue with another file: it is another loss.
        return self._call(student, teacher, labels, temperature, "begin again with another --name")

    def _call(
        self,
        student: Output[Tensor],
        teacher: Output[TapReading],
        labels: Tensor,
        temperature: float,
        advice: str,
        what: str = "fails",
    ) -> Tensor:
        try:
            value = self.function(student, teacher, labels, temperature)
        except OUT_OF_MEMORY:
            raise
        except (Exception, SystemExit) as error:
            raise own_error(self.name.base, self.function, what, error, advice) from error
        if not (isinstance(value, Tensor) and value.shape == () and value.is_floating_point()):
            raise self.refused(f"must return a scalar tensor of floats, got {_described(value)}")
        return value.to(student.logits.dtype)

    def refused(self, what: str) -> ProtocolError:
        return own_error(self.name.base, self.function, what)

    def try_out(
        self,
        taps: Mapping[str, tuple[int, int, int]],
        readings: Mapping[str, TapReading],
        *,
        classes: int,
        batch: int,
        device: torch.device,
        mixing: bool = False,
    ) -> None:
        """Compute the loss of a batch of random numbers, and its gradient.

        `taps` has the shape [C, h, w] of a student's maps, `readings` random readings of the batch;
        with `mixing` the labels are those of mixed images, as in each batch of such a study.
        Raises ProtocolError for a loss that is not a finite scalar, gives another value for the
        same numbers, or from which no finite gradient reaches the student.
        """
        for temperature in TEMPERATURES:
            where = f"for random outputs at temperature {temperature:g}"
            values, gradients = list[Tensor](), list[Tensor]()
            for _ in range(2):
                torch.manual_seed(0)  # each epoch of a run has a seed, too
                draw = _Draw(device)
                student = Output.of(
                    draw(batch, classes).requires_grad_(),
                    {tap: draw(batch, *shape).requires_grad_() for tap, shape in taps.items()},
                )
                teacher = Output.of(draw(batch, classes), readings)
                labels = _labels(batch, classes, device, mixing)
                what = f"fails with {SHARES}" if mixing else "fails"
                value = self._call(student, teacher, labels, temperature, AGAIN, what)
                values.append(value.detach())
                if value.requires_grad:
                    inputs = (student.logits, *student.taps.values())
                    found = torch.autograd.grad(value, inputs, allow_unused=True)
                    gradients = [gradient for gradient in found if gradient is not None]
            if not values[0].isfinite():
                raise self.refused(f"must be finite, got {values[0].item()} {where}")
            if not torch.equal(*values) and device.type == "cpu":
                raise self.refused(f"gives {values[0]:.9g}, then {values[1]:.9g}, {where}")
            if not any(gradient.any() for gradient in gradients):
                raise self.refused(
                    f"has no gradient {where}: it must depend on student.logits or student.taps, "
                    "without detach, item or NumPy"
                )
            if not all(gradient.isfinite().all() for gradient in gradients):
                raise self.refused(f"has a gradient that is not finite {where}")


def _labels(batch: int, classes: int, device: torch.device, mixing: bool) -> Tensor:
    """Return labels [B] int64 or, of images that are mixed, shares [B, classes] float32."""
    labels = torch.arange(batch, device=device) % classes
    if not mixing:
        return labels
    share = torch.linspace(0.5, 1, batch, device=device)
    return targets(MixedLabels(labels, labels.roll(1), share), classes)


class _Draw:
    """Draws normal numbers [...] on the CPU, the same for every object, and moves them."""

    def __init__(self, device: torch.device) -> None:
        self._generator = torch.Generator().manual_seed(0)
        self._device = device

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator).to(self._device)


def random_reading(
    batch: int, features: tuple[int, int, int], sides: tuple[int, int], device: torch.device
) -> TapReading:
    """Return a reading of random numbers: features [B, k, h, w], attention [B, H, W]."""
    draw = _Draw(device)
    attention = draw(batch, *sides).square()
    return TapReading(
        features=draw(batch, *features),
        attention=attention / attention.flatten(1).norm(dim=1)[:, None, None],
        variance=float(features[0]),
    )


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {list(value.shape)}"
    return "None" if value is None else type(value).__name__
