"""The recipe: everything that a trial may vary, as a validated frozen dataclass."""

import math
import re
from dataclasses import dataclass, field
from typing import Any, Self

from kd import schedules
from kd.errors import ProtocolError, require
from kd.json_data import JsonData, plain, read_object
from kd.names import FEATURE_LOSSES, LOGIT_LOSSES, OwnFunction, parse_loss, parse_model
from kd.registry import Kind, check_name

SHAPES = tuple(schedules.SHAPES)
SHARP_SHAPES = ("polynomial", "step", "sigmoid")  # the shapes that `sharpness` changes


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule(JsonData):
    """How a quantity goes from `initial` to `final` over the horizon; see `kd.schedules`."""

    shape: str = "constant"
    initial: float
    final: float
    sharpness: float = 0.5

    def __post_init__(self) -> None:
        self.check_types()
        require(f"a shape must be one of {', '.join(SHAPES)}", self.shape in SHAPES, self.shape)
        require("sharpness must lie in 0-1", 0 <= self.sharpness <= 1, self.sharpness)
        if self.shape == "constant":
            require("a constant schedule ends where it starts", self.initial == self.final, self)

    @classmethod
    def constant(cls, value: float) -> Self:
        return cls(shape="constant", initial=value, final=value)

    @property
    def ends(self) -> tuple[float, float]:
        return self.initial, self.final

    def value(self, progress: float) -> float:
        """Return the value at `progress` = step / total steps of the horizon."""
        return schedules.value(self.shape, *self.ends, progress, self.sharpness)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe(JsonData):
    """What one trial trains with.

    loss = (1 - alpha) * hard + alpha * soft + feature_weight * feature

    alpha is the weight of the soft-target term; some papers and libraries give that name to the
    weight of the hard term instead. `soft` is scaled by temperature squared (`kd.losses.logits`).
    `student` is the model that learns, one of the protocol's; empty for its first.
    `teacher_shares` are the weights, with the sum 1, of several teachers' logits in their average,
    in the order of the protocol; empty for equal ones. One of 1 chooses that teacher. Feature
    losses read the teacher with the largest share, the first of equals.
    `soft_parameters` and `feature_parameters` are those that the losses themselves have, by name;
    the ones that are not given take the loss's defaults. `soft_kind` may be the study's loss of the
    user's own, `mine.py:squared@1a2b3c4d5e6f`, which has none.
    """

    student: str = ""
    teacher_shares: tuple[float, ...] = ()
    lr: float = 0.1
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    soft_kind: str = "none"
    soft_parameters: dict[str, Any] = field(default_factory=dict, hash=False)
    temperature: Schedule = Schedule(initial=1.0, final=1.0)
    alpha: Schedule = Schedule(initial=0.0, final=0.0)
    feature_kind: str = "none"
    feature_parameters: dict[str, Any] = field(default_factory=dict, hash=False)
    feature_weight: float = 0.0
    feature_taps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.check_types()
        if self.student:
            parse_model(self.student)  # which raises for one that is not in the catalogue
        require("lr must lie in (0, 10]", 0 < self.lr <= 10, self.lr)
        require("weight_decay must lie in 0-1", 0 <= self.weight_decay <= 1, self.weight_decay)
        require(
            "label_smoothing must lie in 0-1 (1 excluded)",
            0 <= self.label_smoothing < 1,
            self.label_smoothing,
        )
        require(
            "temperature must lie in (0, 1000]",
            all(0 < end <= 1000 for end in self.temperature.ends),
            self.temperature.ends,
        )
        require(
            "alpha must lie in 0-1", all(0 <= end <= 1 for end in self.alpha.ends), self.alpha.ends
        )
        self._check_soft()
        self._check_feature()
        self._check_shares()

    def _check_shares(self) -> None:
        shares = self.teacher_shares
        require("teacher_shares need a soft or a feature loss", not shares or self.distils, shares)
        require("teacher_shares must lie in 0-1", all(0 <= one <= 1 for one in shares), shares)
        whole = not shares or math.isclose(sum(shares), 1, abs_tol=1e-6)
        require("teacher_shares must have the sum 1", whole, shares)

    def _check_soft(self) -> None:
        if self.own_loss:
            given = self.soft_parameters
            require("soft_parameters must be empty for a loss of your own", not given, given)
        else:
            self._check_loss("soft", LOGIT_LOSSES)
        if self.soft_kind == "none":
            require("without a soft loss alpha must be 0", self.alpha.ends == (0, 0), self.alpha)

    def _check_feature(self) -> None:
        self._check_loss("feature", FEATURE_LOSSES)
        taps = self.feature_taps
        if self.feature_kind == "none":
            unused = self.feature_weight == 0 and not taps
            require("feature_weight and feature_taps need a feature_kind", unused, self)
            return
        require(
            "feature_weight must lie in (0, 1000]",
            0 < self.feature_weight <= 1000,
            self.feature_weight,
        )
        named = bool(taps) and all(re.fullmatch("last[1-9][0-9]*", tap) for tap in taps)
        require("feature_taps must name taps such as last1", named, taps)
        require("feature_taps must not repeat a tap", len(set(taps)) == len(taps), taps)

    def _check_loss(self, part: str, kind: Kind) -> None:
        """Check a loss's name and its parameters, of which those left out become its defaults."""
        name, given = getattr(self, f"{part}_kind"), getattr(self, f"{part}_parameters")
        if name != "none" and name not in kind:
            check_name(f"{part}_kind", name, ("none", *kind.names))
        parameters = None if name == "none" else kind.parameters(name)
        if parameters is None:
            rule = f"{part}_parameters must be empty: {part}_kind {name} takes none"
            require(rule, not given, given)
            return
        try:
            whole = plain(read_object(parameters, given))
        except ProtocolError as error:
            raise ProtocolError(f"{part}_parameters of {name}: {error}") from None
        object.__setattr__(self, f"{part}_parameters", whole)

    @property
    def distils(self) -> bool:
        """Whether training needs the teacher."""
        return self.soft_kind != "none" or self.feature_kind != "none"

    def shares(self, teachers: int) -> tuple[float, ...]:
        """Return the share of each of the study's teachers in what this recipe's student learns.

        Raises ProtocolError for the shares of another number of teachers.
        """
        count = len(self.teacher_shares)
        require(f"teacher_shares must be {teachers}", count in (0, teachers), self.teacher_shares)
        return self.teacher_shares or (1 / teachers,) * teachers

    def lead(self, teachers: int) -> int:
        """Return the place of the teacher whose features are read: that of the largest share."""
        shares = self.shares(teachers)
        return shares.index(max(shares))

    @property
    def own_loss(self) -> OwnFunction | None:
        """The user's function that is the soft loss, `mine.py:squared@1a2b3c4d5e6f`, if it is."""
        return parse_loss(self.soft_kind) if ".py" in self.soft_kind else None

    @property
    def reads_taps(self) -> bool:
        """Whether training reads feature maps; a soft loss of the user's own may read any."""
        return self.feature_kind != "none" or self.own_loss is not None
