"""Candidates: recipes that a search space draws at random, for the search to choose from."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.trial import FixedTrial

from kd.errors import StudyError
from kd.recipe import Recipe
from kd.seeds import derive_seed
from search_spaces.checks import Distributions, kind_of
from search_spaces.space import Space, propose_in_study

BLOCKS, DRAWN = 16, 16  # a decision has so many blocks of so many candidates
MOST_DRAWS = 20 * DRAWN  # of a block, where most students are over the budget


class DrawnTrial(FixedTrial):
    """A trial whose parameters are drawn independently, as Optuna's random sampler draws them.

    It needs no study, and is far faster than a trial of one.
    """

    def __init__(self, generator: np.random.Generator, number: int) -> None:
        self._drawn: dict[str, Any] = {}
        self._generator = generator
        super().__init__(self._drawn, number)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if name not in self._drawn:
            self._drawn[name] = self._draw(low, high, step, log)
        return super().suggest_float(name, low, high, step=step, log=log)

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        if name not in self._drawn:
            beyond = 0.5 if log else 0.0
            drawn = self._draw(low - beyond, high + beyond, None if log else step, log)
            self._drawn[name] = min(max(round(drawn), int(low)), int(high))
        return super().suggest_int(name, low, high, step=step, log=log)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        kept = tuple(choices)  # which may be a dict
        if name not in self._drawn:
            self._drawn[name] = kept[int(self._generator.integers(len(kept)))]
        return super().suggest_categorical(name, kept)

    def _draw(self, low: float, high: float, step: float | None, log: bool) -> float:
        low, high = float(low), float(high)  # of NumPy's types, perhaps
        if step is not None:
            steps = math.floor((high - low) / step + 1e-9)
            return low + step * int(self._generator.integers(steps + 1))
        share = float(self._generator.random())
        if log:
            drawn = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            drawn = low + share * (high - low)
        return min(max(drawn, low), high)


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A recipe, and the parameters that it was made from. Each is equal to itself alone."""

    parameters: dict[str, Any]
    distributions: dict[str, BaseDistribution]
    recipe: Recipe


class Candidates:
    """The candidates of an arm's decisions. Suggesting takes the time, so most are used again."""

    def __init__(
        self,
        space: Space,
        seed: int,
        feasible: Callable[[Recipe], bool],
        known: Distributions,
    ) -> None:
        """Candidates follow from space and seed; those that are not `feasible` are passed over.

        `known` has the distributions of the arm's parameters, and is extended.
        """
        self._space = space
        self._seed = seed
        self._feasible = feasible
        self._known = known
        self._blocks: dict[int, list[Candidate]] = {}

    @property
    def sample(self) -> list[Candidate]:
        """A sample of the space: the candidates of the first decision."""
        return self.of(0)

    def of(self, number: int) -> list[Candidate]:
        """Return the candidates of decision `number`: all but one block are also of the next.

        Raises ProtocolError if the space fails, StudyError if it has no feasible recipe.
        """
        blocks = range(number, number + BLOCKS)
        for block in [block for block in self._blocks if BLOCKS <= block < number]:
            del self._blocks[block]
        for block in blocks:
            if block not in self._blocks:
                self._blocks[block] = list(self._draw(block))
        found = [candidate for block in blocks for candidate in self._blocks[block]]
        if not found:
            raise StudyError(
                f"{self._space.name}: none of {BLOCKS * MOST_DRAWS:,} recipes has a student within "
                "the budget; raise --max-params or --max-latency-ms"
            )
        return found

    def _draw(self, block: int) -> Iterator[Candidate]:
        generator = np.random.default_rng(derive_seed(self._seed, "candidates", block))
        found = 0
        for draw in range(MOST_DRAWS):
            trial = DrawnTrial(generator, block * DRAWN + draw)
            recipe = self._suggest(trial)
            if self._feasible(recipe):
                yield Candidate(dict(trial.params), dict(trial.distributions), recipe)
                found += 1
            if found == DRAWN:
                return

    def _suggest(self, trial: DrawnTrial) -> Recipe:
        """Return the recipe of a drawn trial; the checks, which take time, are for what is odd."""
        try:
            recipe = self._space.suggest(trial)
        except Exception:
            recipe = None
        if recipe is None or not self._agrees(trial.distributions):
            return propose_in_study(self._space, trial, "a candidate", self._known)
        return recipe

    def _agrees(self, distributions: Distributions) -> bool:
        """Whether the kinds of these parameters are those that are known."""
        pairs = [(one, self._known.setdefault(name, one)) for name, one in distributions.items()]
        return all(one == known or kind_of(one) == kind_of(known) for one, known in pairs)
