"""What a training run reports after each epoch, and how good its first epochs say it will be."""

from collections.abc import Sequence
from dataclasses import dataclass

from kd.errors import require
from kd.json_data import JsonData

SHARES = ("accuracy", "ece", "agreement")
# At 10 images of a class, Wilson's 95 % interval of an accuracy of one half is 53 points wide; with
# fewer images it is wider.
FEW_OF_A_CLASS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochMetrics(JsonData):
    """One epoch of one run. Accuracies and shares lie in 0-1, losses are means over the steps.

    `agreement` (share of validation images for which both networks predict the same class) and
    `teacher_kl` (KL of the teacher to the student at temperature 1, nats) are None without a
    teacher. `early_nll` is that of `kd.training.early`. `temperature`, `alpha` and `lr`
    are those of the epoch's last step.
    """

    epoch: int  # from 1
    objective: float  # the metric of the run's plan, on the validation split
    accuracy: float  # on the validation split
    nll: float  # on the validation split, nats
    ece: float  # on the validation split, 15 equal bins
    early_nll: float  # on a batch of the validation split, with its own statistics, nats
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

    def __post_init__(self) -> None:
        for name in SHARES:
            share = getattr(self, name)
            require(f"{name} must lie in 0-1", share is None or 0 <= share <= 1, share)
        require("epoch must be at least 1", self.epoch >= 1, self.epoch)


def early_signal(history: Sequence[EpochMetrics]) -> float:
    """Return the mean `early_nll` of a run's epochs, nats: how fast it learns.

    The mean of the first epochs ranks runs by their end better than the last of them, whose
    learning rate and schedules are those of the middle of a run. Ru et al. 2021 ("Speedy
    performance estimation for neural architecture search") sum training losses in the same way.
    """
    return sum(epoch.early_nll for epoch in history) / len(history)
