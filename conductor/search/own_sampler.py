"""A sampler of the user's own, `mine.py:make`: `make(seed)` returns an Optuna sampler.

It is made anew for each decision, and sees the trials that the lag allows. So its state has to be
in the trials (parameters, values, system attributes), or to follow from the seed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from conductor.search.samplers import OWN_SAMPLER
from kd.errors import ProtocolError, one_line
from kd.own_files import load_kept, own_line, own_place
from storage.studies.optuna_internals import contains


def make_own(name: str, place: Path, seed: int) -> "GuardedSampler":
    """Make the sampler `mine.py:make@1a2b3c4d5e6f` from the copy of its file below `place`.

    Raises ProtocolError, in one line with file and line, for any exception of the user's function,
    and unless it returns a sampler.
    """
    match = OWN_SAMPLER.fullmatch(name)
    assert match is not None, name  # checked by the request
    file, function, digest = match.groups()
    make = getattr(load_kept(place, file, digest), function, None)
    if not callable(make):
        raise ProtocolError(f"{file} lacks the function {function}(seed) -> optuna sampler")
    where = own_line(make) or file
    try:
        with _quiet():
            sampler = make(seed)
    except (Exception, SystemExit) as error:
        raise _failed(where, f"{function}({seed})", error) from error
    if not isinstance(sampler, BaseSampler):
        raise ProtocolError(
            f"{where}: must return an optuna.samplers.BaseSampler, got {sampler!r:.100}"
        )
    return GuardedSampler(sampler, where)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Optuna's messages on samplers, which would be repeated for each decision."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _failed(where: str, what: str, error: BaseException) -> ProtocolError:
    """Return the error of one line for an exception of the user's sampler."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    advice = f"; install it, as in: pip install {missing}" if missing else ""
    return ProtocolError(f"{own_place(error) or where}: {what} raises {one_line(error)}{advice}")


class GuardedSampler(BaseSampler):
    """A user's sampler, whose exceptions and values out of range are errors that name its line."""

    def __init__(self, sampler: BaseSampler, where: str) -> None:
        self._sampler = sampler
        self.where = where  # the line of the function that made it
        self.failure: ProtocolError | None = None  # the last error

    def _call(self, what: str, *arguments: Any) -> Any:
        try:
            with _quiet():
                return getattr(self._sampler, what)(*arguments)
        except (Exception, SystemExit) as error:
            self._fail(_failed(self.where, f"the sampler's {what}", error))

    def _fail(self, failure: ProtocolError) -> None:
        self.failure = failure
        raise failure

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._call("before_trial", study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        space: dict[str, BaseDistribution] = self._call("infer_relative_search_space", study, trial)
        return space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        chosen: dict[str, Any] = self._call("sample_relative", study, trial, search_space)
        for name, value in chosen.items():
            if name in search_space:
                self._check(name, value, search_space[name])
        return chosen

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        value = self._call("sample_independent", study, trial, param_name, param_distribution)
        self._check(param_name, value, param_distribution)
        return value

    def _check(self, name: str, value: Any, distribution: BaseDistribution) -> None:
        """Raise ProtocolError for a value that is not in the distribution."""
        if not contains(distribution, value):
            message = f"the sampler chose {name} = {value!r}, which is not in {distribution}"
            self._fail(ProtocolError(f"{self.where}: {message}"))
