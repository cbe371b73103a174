"""A search space suggests recipes, and says which recipes to try first.

A space is a Python file with `suggest(trial) -> Recipe`, and `ENQUEUED`, a dict from a title to the
parameters of a recipe that is tried first. `--space path/to/mine.py` runs a file of your own.
"""

import hashlib
import importlib.util
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import BaseTrial, FixedTrial

from kd.errors import ProtocolError
from kd.recipe import Recipe
from search_spaces import constant, plain, scheduled

BUILT_IN = {"scheduled": scheduled, "constant": constant, "plain": plain}


@dataclass(frozen=True, slots=True)
class Space:
    """A search space: `enqueued` maps the title of each recipe to try first to its parameters.

    `digest` is the SHA-256 of its source: a study is not resumed with another.
    """

    name: str
    suggest: Callable[[BaseTrial], Recipe]
    enqueued: Mapping[str, Mapping[str, Any]]
    digest: str


def load_space(name_or_path: str) -> Space:
    """Load a built-in space by name, or a file that ends in .py.

    Raises ProtocolError when the file is missing, does not import, lacks `suggest`, or suggests
    what is not a Recipe for one of the recipes that it wants tried first.
    """
    path = Path(name_or_path)
    if name_or_path in BUILT_IN:
        module: Any = BUILT_IN[name_or_path]
        path = Path(module.__file__)
    else:
        module = _import_file(path)
    space = Space(
        name=path.stem,
        suggest=module.suggest,
        enqueued=getattr(module, "ENQUEUED", {}),
        digest=hashlib.sha256(path.read_bytes()).hexdigest(),
    )
    _check(space, str(path))
    return space


def with_taps(space: Space, taps: Sequence[str]) -> Space:
    """Return the space, whose recipes may then read no tap but `taps`, the protocol's.

    Raises ProtocolError when a recipe to try first does.
    """

    def suggest(trial: BaseTrial) -> Recipe:
        recipe = space.suggest(trial)
        missing = [tap for tap in recipe.feature_taps if tap not in taps]
        if missing:
            raise ProtocolError(
                f"the search space {space.name} reads {', '.join(missing)}, and the protocol has "
                f"{', '.join(taps)}: name them all in --taps, or another space with --space"
            )
        return recipe

    for parameters in space.enqueued.values():
        suggest(FixedTrial(dict(parameters)))
    return replace(space, suggest=suggest)


def with_students(space: Space, students: Sequence[str], feasible: Sequence[str]) -> Space:
    """Return the space with the student among its parameters, where there are several.

    What is tried first is tried with the first feasible student. A space of the user's own may
    choose the student itself: where its recipe names one, it is not asked for. Raises
    ProtocolError when that is none of `students`, or not feasible for a recipe to try first.
    """

    def suggest(trial: BaseTrial) -> Recipe:
        recipe = space.suggest(trial)
        if not recipe.student and len(students) > 1:
            chosen = trial.suggest_categorical("student", students)
            recipe = replace(recipe, student=chosen)
        _check_student(f"the search space {space.name}", recipe, students)
        return recipe

    enqueued: dict[str, Mapping[str, Any]] = {}
    for title, parameters in space.enqueued.items():
        recipe = space.suggest(FixedTrial(dict(parameters)))
        _check_student(f"{space.name}: ENQUEUED[{title!r}]", recipe, feasible)
        asks = not recipe.student and len(students) > 1
        enqueued[title] = {**parameters, "student": feasible[0]} if asks else parameters
    found = replace(space, suggest=suggest, enqueued=enqueued)
    _check(found, f"the search space {space.name}")
    return found


def _check_student(what: str, recipe: Recipe, known: Sequence[str]) -> None:
    """Raise ProtocolError if a recipe names a student that may not learn here."""
    if recipe.student and recipe.student not in known:
        raise ProtocolError(f"{what} names the student {recipe.student!r}, not {', '.join(known)}")


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise ProtocolError(f"--space takes a Python file, got {path}, which is not a file")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,30}", path.stem):
        raise ProtocolError(
            f"a search space's file name becomes its arm's name: letters, digits and _, "
            f"got {path.stem!r}"
        )
    if path.stem in BUILT_IN:
        raise ProtocolError(f"{path.stem} is the name of a built-in arm; rename {path}")
    spec = importlib.util.spec_from_file_location(f"search_space_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ProtocolError(f"--space takes a Python file (.py), got {path}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {_one_line(error)}"
        raise ProtocolError(f"{path} does not import: {reason}") from error
    if not callable(getattr(module, "suggest", None)):
        raise ProtocolError(f"{path} lacks the function suggest(trial) -> Recipe")
    enqueued = getattr(module, "ENQUEUED", {})
    if not isinstance(enqueued, dict) or not all(isinstance(v, dict) for v in enqueued.values()):
        raise ProtocolError(f"{path}: ENQUEUED must be a dict from titles to dicts of parameters")
    return module


def _check(space: Space, path: str) -> None:
    """Try the space: what it enqueues, and one random recipe, must come out as recipes."""
    for title, parameters in space.enqueued.items():
        trial = FixedTrial(dict(parameters))
        what = f"suggest of ENQUEUED[{title!r}]"
        _check_recipe(space, trial, f"{path}: {what}")
        unused = sorted(set(parameters) - set(trial.params))
        if unused:
            raise ProtocolError(f"{path}: {what} does not ask for {', '.join(unused)}")
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.RandomSampler(seed=0)
    random_trial = optuna.create_study(sampler=sampler).ask()
    optuna.logging.set_verbosity(verbosity)
    _check_recipe(space, random_trial, f"{path}: suggest of a random trial")


def _check_recipe(space: Space, trial: BaseTrial, what: str) -> None:
    try:
        with warnings.catch_warnings():  # Optuna only warns of a value that is out of range
            warnings.filterwarnings("error", ".* out of the range of the distribution")
            recipe = space.suggest(trial)
    except Exception as error:
        raise ProtocolError(f"{what} raises {_one_line(error)}") from error
    if not isinstance(recipe, Recipe):
        raise ProtocolError(f"{what} returns {recipe!r}, not a Recipe")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
