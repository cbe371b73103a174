"""Which parameters mattered: as the search by promotion has learnt, or else by PED-ANOVA.

PED-ANOVA is over an arm's trials, and over resamples of them.
"""

import warnings
from collections.abc import Container, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.importance import get_param_importances
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from kd.seeds import derive_seed
from storage.files.records import Learnt

# PED-ANOVA compares the best tenth with all completed trials; its documentation asks for at least
# five trials in that tenth. Below ten completed trials there is no tenth to speak of.
FEWEST = 10
ENOUGH = 50
RESAMPLES = 40
# quantiles of the resamples: a 90 % interval; of 40 its ends are about the third from either end
ENDS = (0.05, 0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """A parameter's share of what matters, 0-1, with a 90 % interval.

    The interval is over draws of the posterior of the search by promotion, or else over bootstrap
    samples of the trials.
    """

    share: float
    low: float
    high: float


def learnt_importances(learnt: Learnt) -> Mapping[str, Importance]:
    """Return the importances that a search by promotion has learnt, the largest first.

    Shares do not sum to 1.
    """
    return {
        name: Importance(share=share, low=low, high=high)
        for name, (share, low, high) in learnt.importances.items()
    }


class _Resample(optuna.Study):
    """A study of which `drawn` are all trials, some of them perhaps more than once."""

    drawn: list[FrozenTrial]

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return self.drawn


def find_importances(
    name: str, storage: BaseStorage, trials: Sequence[FrozenTrial]
) -> tuple[Mapping[str, Importance], str]:
    """Return importances by parameter, largest first, and a note on how far to trust them.

    `name` is the study's in `storage`, and `trials` are all of its trials. Shares sum to 1. There
    are none below ten completed trials.
    """
    whole = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if len(whole) < FEWEST:
        rule = f"Importances need at least {FEWEST} completed trials"
        return {}, f"{rule}; there are {len(whole)}."
    lost = _share_distributions(whole)
    study = _Resample(name, storage)
    study.drawn = whole
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        shares = get_param_importances(study)
    intervals = _intervals(study, whole, list(shares))
    ordered = sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    importances = {
        name: Importance(share=share, low=intervals[name][0], high=intervals[name][1])
        for name, share in ordered
    }
    rare = sum("less than" in str(one.message) for one in caught)
    return importances, _note(len(whole), rare, lost)


def _share_distributions(trials: Sequence[FrozenTrial]) -> list[str]:
    """Give trials one object for equal distributions: Optuna compares them again and again.

    Parameters with choices that Optuna cannot compare, such as lists, are left out, and their names
    returned. The built-in spaces have none (`search_spaces.checks`), but the storage may.
    """
    known: dict[BaseDistribution, BaseDistribution] = {}
    lost = {
        name
        for trial in trials
        for name, distribution in trial.distributions.items()
        if isinstance(distribution, CategoricalDistribution)
        and not all(isinstance(choice, Hashable) for choice in distribution.choices)
    }
    for trial in trials:
        trial.distributions = {
            name: known.setdefault(distribution, distribution)
            for name, distribution in trial.distributions.items()
            if name not in lost
        }
    return sorted(lost)


def _note(whole: int, rare: int, lost: Sequence[str]) -> str:
    note = ""
    if whole < ENOUGH:
        note = f"From {whole} completed trials: only a hint. PED-ANOVA needs {ENOUGH}."
    if rare:
        note += f" {rare} parameters took part in too few trials to be judged well."
    if lost:
        note += f" Left out, since Optuna cannot compare their choices: {', '.join(lost)}."
    return note.strip()


def _intervals(
    study: _Resample, trials: list[FrozenTrial], parameters: list[str]
) -> dict[str, tuple[float, float]]:
    """Return the 90 % interval of each share over resamples of the trials.

    The percentile bootstrap of Efron and Tibshirani, "An introduction to the bootstrap", 1993,
    chapter 13. A parameter that a resample does not have has a share of 0 there.
    """
    generator = np.random.default_rng(derive_seed(0, "importances", study.study_name))
    table = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they were recorded for the trials themselves
        for _ in range(RESAMPLES):
            rows = generator.integers(0, len(trials), len(trials))
            study.drawn = [trials[row] for row in rows]
            shares = get_param_importances(study)
            table.append([shares.get(parameter, 0.0) for parameter in parameters])
    low, high = np.quantile(np.asarray(table), ENDS, axis=0).tolist()
    return dict(zip(parameters, zip(low, high, strict=True), strict=True))
