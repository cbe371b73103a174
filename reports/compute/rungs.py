"""The search by promotion: what became of runs at each rung, and what its signal was worth."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reports.read.data import StudyData
from reports.read.learnt import STARTUP_RUNS
from reports.read.trials import ArmData, TrialData
from reports.statistics import RankCorrelation, rank_correlation
from reports.wording import counted, listed, percent, signed

NEAR_ZERO = 0.1  # an upper end of Kendall's tau below which a signal did not rank recipes


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """What became of an arm's runs at one rung.

    Of the runs that `reached` it, `promoted` paused there and went on, by the trials `promotions`,
    `paused` are paused there, and the others did not pause. `signal` is the rank correlation of the
    early signal there with the metric at the horizon, over the runs that were trained to the
    horizon; None at the horizon itself, and where they are too few.
    """

    epoch: int
    reached: int
    promoted: int
    paused: int
    promotions: tuple[int, ...]
    signal: RankCorrelation | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmRungs:
    """The rungs of an arm, of which the horizon is the last.

    `recipes` were begun and `whole` of them trained to the horizon; `repeats` of the `runs` are
    further ones of a recipe, on another seed. `ranked` runs have a value at the horizon. In `won`
    of the pairs of a run that was promoted there and one of the `auditors`, 0-1, the promoted one
    ended better; None without a pair. `trusted` is whether the search used the early signal when it
    last ended; None if that is not recorded.
    """

    arm: str
    runs: int
    repeats: int
    recipes: int
    whole: int
    ranked: int
    auditors: int
    won: float | None
    trusted: bool | None
    rungs: tuple[Rung, ...]

    @property
    def below(self) -> tuple[Rung, ...]:
        """The rungs below the horizon."""
        return self.rungs[:-1]


def find_rungs(data: StudyData) -> tuple[ArmRungs, ...]:
    """Return the rungs of each arm; none of a search that was not by promotion."""
    if not data.by_promotion:
        return ()
    trials = [trial for arm in data.arms for trial in arm.trials]
    epochs = {epoch for trial in trials for epoch in (trial.until, *trial.early) if epoch}
    rungs = sorted({*epochs, data.protocol.epochs})
    return tuple(_arm_rungs(arm, rungs) for arm in data.arms)


def _arm_rungs(arm: ArmData, rungs: Sequence[int]) -> ArmRungs:
    recipes = arm.ranking
    ended = [run for run in arm.runs if run.is_whole or run.diverged]
    auditors = [_end_of(run) for run in ended if run.auditor]
    promoted = [_end_of(run) for run in ended if _is_promoted(run, rungs[-1])]
    return ArmRungs(
        arm=arm.name,
        runs=len(arm.runs),
        repeats=sum(run.repeats is not None for run in arm.runs),
        recipes=arm.recipes,
        whole=len(recipes),
        ranked=sum(len(recipe.trials) for recipe in recipes),
        auditors=len(auditors),
        won=_won(promoted, auditors),
        trusted=arm.trusted,
        rungs=tuple(_rung(arm, epoch, epoch == rungs[-1]) for epoch in rungs),
    )


def _is_promoted(run: TrialData, horizon: int) -> bool:
    """Whether the run of a learnt proposal came to the horizon by its early signal."""
    return run.continues is not None and run.until == horizon and (run.run or 0) >= STARTUP_RUNS


def _end_of(run: TrialData) -> float:
    return -math.inf if run.diverged else run.ranked


def _won(promoted: Sequence[float], auditors: Sequence[float]) -> float | None:
    """Return the share of pairs in which a promoted run ended better; a tie is half of one."""
    pairs = [(one > other) + (one == other) / 2 for one in promoted for other in auditors]
    return sum(pairs) / len(pairs) if pairs else None


def _rung(arm: ArmData, epoch: int, last: bool) -> Rung:
    on = [trial for trial in arm.trials if trial.begun == epoch and trial.state != "FAIL"]
    promoted = {trial.run for trial in on}
    paused = [
        run
        for run in arm.runs
        if run.state == "PRUNED" and run.until == epoch and run.run not in promoted
    ]
    return Rung(
        epoch=epoch,
        reached=sum(run.reached >= epoch for run in arm.runs),
        promoted=len(promoted),
        paused=len(paused),
        promotions=tuple(trial.number for trial in on),
        signal=None if last else _signal(arm, epoch),
    )


def _signal(arm: ArmData, epoch: int) -> RankCorrelation | None:
    """Rank the runs at the horizon by the early signal; runs of one recipe are not independent."""
    pairs: list[tuple[float, TrialData]] = []
    recipes = 0
    for recipe in arm.ranking:
        known = [(-run.early[epoch], run) for run in recipe.trials if epoch in run.early]
        recipes += bool(known)
        pairs += known
    if not pairs:
        return None
    return rank_correlation(
        [signal for signal, _ in pairs], [run.ranked for _, run in pairs], recipes
    )


def of_signal(arms: Sequence[ArmRungs]) -> Iterator[str]:
    """Name the arms whose early signal did not rank recipes, or was doubted by their search."""
    for arm in arms:
        poor = [
            f"{signed(rung.signal.tau, sign=True, digits=2)} at epoch {rung.epoch} (95 % interval "
            f"{signed(rung.signal.low, sign=True, digits=2)} to "
            f"{signed(rung.signal.high, sign=True, digits=2)})"
            for rung in arm.below
            if rung.signal and rung.signal.high < NEAR_ZERO
        ]
        if poor:
            yield (
                f"The early signal did not rank recipes of {arm.arm} in this study: over "
                f"{arm.ranked} runs at the horizon, Kendall's τ with their final value is "
                f"{listed(poor)}. Promotion by it may have dropped good recipes; --sampler tpe "
                "--pruner none searches without it."
            )
        if arm.trusted is False and arm.won is not None:
            yield (
                f"The search of {arm.arm} doubted its early signal: promoted runs ended better "
                f"than {counted(arm.auditors, 'auditor')}, recipes that went to the horizon at "
                f"once, in only {percent(arm.won, 0)} of all pairs. So it took more recipes to the "
                "horizon at once and has tried fewer; more --trials help."
            )
