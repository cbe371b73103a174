"""What a training run says after each epoch."""

from dataclasses import dataclass, fields
from typing import Any, Self

from kd.recipe import check_keys, require, require_number

NEEDS_TEACHER = ("agreement", "teacher_kl")
SHARES = ("accuracy", "ece", "agreement")
# With fewer images of a class, Wilson's 95 % interval of an accuracy of one half is wider than the
# 53 points that it has for 10.
FEW_OF_A_CLASS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochMetrics:
    """One epoch of one run. Accuracies and shares lie in 0-1, losses are means over the steps.

    `agreement` (share of validation images on which student and teacher name the same class) and
    `teacher_kl` (KL of the teacher to the student at temperature 1, nats) are None without a
    teacher. `temperature`, `alpha` and `lr` are those of the epoch's last step.
    """

    epoch: int  # from 1
    objective: float  # the metric of the run's plan, on the validation split
    accuracy: float  # on the validation split
    nll: float  # on the validation split, nats
    ece: float  # on the validation split, 15 equal bins
    agreement: float | None
    teacher_kl: float | None
    loss: float
    hard_loss: float
    soft_loss: float
    feature_loss: float
    temperature: float
    alpha: float
    lr: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, given: Any) -> Self:
        """Read what `to_json` wrote. Raises ProtocolError for unknown, missing or absurd values."""
        check_keys("record of an epoch", given, tuple(field.name for field in fields(cls)))
        for name, received in given.items():
            if received is not None or name not in NEEDS_TEACHER:
                require_number(name, received)
        for name in SHARES:
            share = given[name]
            require(f"{name} must lie in 0-1", share is None or 0 <= share <= 1, share)
        whole = isinstance(given["epoch"], int) and given["epoch"] >= 1
        require("epoch must be a whole number from 1", whole, given["epoch"])
        return cls(**given)
