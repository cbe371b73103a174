"""An arm: one search space as one Optuna study, with decisions in memory and a ledger."""

from typing import Any

import optuna
from optuna.trial import TrialState

from conductor.search.budget import Budget
from conductor.search.decisions import Decisions
from conductor.search.methods import SearchMethod
from search_spaces.space import Space
from storage.studies.ledger import StudyLedger


class Arm:
    """The trials of one arm: each step is decided first, then written to the study."""

    def __init__(
        self,
        space: Space,
        study: optuna.Study,
        method: SearchMethod,
        *,
        budget: Budget | None = None,
    ) -> None:
        self.name = space.name
        self.study = study
        self.ledger = StudyLedger(study)
        self.decisions = Decisions(study.study_name, space, method, budget)
        for trial in self.ledger.read():
            self.decisions.adopt(trial)

    def ask(self, limit: int) -> int | None:
        """Decide the parameters of the next trial, store it, and return its number.

        A trial with an `excess` has ended already, and must not be trained. Returns None while no
        further trial may begin, or once `limit` is committed (`Decisions.unit`).
        """
        if not self.decisions.may_ask(limit):
            return None
        trial = self.decisions.ask()
        self.ledger.begin(trial)
        return trial.number

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Store an epoch's score; return whether to prune the trial there.

        Reporting an epoch again changes nothing, so that replaying a checkpoint is safe.
        """
        if self.decisions.report(number, epoch, value):
            self.ledger.report(number, epoch, value)
        return self.decisions.stops(number, epoch)

    def tell(
        self, number: int, state: TrialState, value: float | None, attributes: dict[str, Any]
    ) -> None:
        """End a trial, with these user attributes."""
        written = self.decisions.attributes(number, state, value, attributes)
        self.ledger.end(number, state, None if value is None else [value], written)
        self.decisions.end(number, state, value, written)
