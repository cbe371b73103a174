"""A search space suggests recipes, and says which recipes to try first.

A space is a Python file with `suggest(trial) -> Recipe`, and `ENQUEUED`, a dict from a title to the
parameters of a recipe that is tried first. `--space path/to/mine.py` runs a file of your own.
"""

import hashlib
import importlib.util
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.trial import BaseTrial, FixedTrial

from kd.errors import ProtocolError, one_line, place_in
from kd.recipe import Recipe
from search_spaces import constant, plain, scheduled
from search_spaces.asking import Asked, AskedTrial, check_enqueued

BUILT_IN = {"scheduled": scheduled, "constant": constant, "plain": plain}
DRAWS = 50  # random trials with which a space is tried out, so that rare branches are met early


@dataclass(frozen=True, slots=True)
class Space:
    """A search space: `enqueued` maps the title of each recipe to try first to its parameters.

    `digest` is the SHA-256 of its source: a study is not resumed with another. `file` and `line`
    say where `suggest` of a file of the user's is.
    """

    name: str
    suggest: Callable[[BaseTrial], Recipe]
    enqueued: Mapping[str, Mapping[str, Any]]
    digest: str
    file: str = ""
    line: str = ""


def load_space(name_or_path: str) -> Space:
    """Load a built-in space by name, or a file that ends in .py.

    Raises ProtocolError when the file is missing, does not import, lacks `suggest`, or suggests
    what is not a Recipe for one of the recipes that it wants tried first.
    """
    path, own = Path(name_or_path), {}
    if name_or_path in BUILT_IN:
        module: Any = BUILT_IN[name_or_path]
        path = Path(module.__file__)
    else:
        module = _import_file(path)
        code = getattr(module.suggest, "__code__", None)
        line = f"line {code.co_firstlineno}, in suggest" if code else ""
        own = {"file": str(path.absolute()), "line": line}
    space = Space(
        name=path.stem,
        suggest=module.suggest,
        enqueued=getattr(module, "ENQUEUED", {}),
        digest=hashlib.sha256(path.read_bytes()).hexdigest(),
        **own,
    )
    _check(space, str(path))
    return space


def with_taps(space: Space, taps: Sequence[str]) -> Space:
    """Return the space, whose recipes may then read no tap but `taps`, the protocol's.

    Of the built-in spaces' choices of taps, those remain that the protocol has; what is tried
    first takes the widest of them in place of one that it has not. Raises ProtocolError when a
    space reads another tap all the same.
    """
    offered = [choice for choice in scheduled.TAPS if {*choice.split("+")} <= {*taps}]
    narrowed = space.name in BUILT_IN and len(offered) < len(scheduled.TAPS)

    def suggest(trial: BaseTrial) -> Recipe:
        recipe = space.suggest(cast(BaseTrial, _Narrowed(trial, offered)) if narrowed else trial)
        if not isinstance(recipe, Recipe):
            raise ProtocolError(f"it returns {recipe!r}, not a Recipe")
        missing = [tap for tap in recipe.feature_taps if tap not in taps]
        if missing:
            raise ProtocolError(
                f"it reads {', '.join(missing)}, and the protocol has {', '.join(taps)}: let the "
                "space read these alone, or name all in --taps"
            )
        return recipe

    enqueued: dict[str, Mapping[str, Any]] = dict(space.enqueued)
    for title, parameters in space.enqueued.items():
        if narrowed and offered and parameters.get("feature_taps", offered[0]) not in offered:
            enqueued[title] = {**parameters, "feature_taps": offered[-1]}
    found = replace(space, suggest=suggest, enqueued=enqueued)
    _check(found, f"{space.name}.py" if space.file else f"the search space {space.name}")
    return found


class _Narrowed:
    """A trial to which a built-in space offers, of its choices of taps, only `offered`."""

    def __init__(self, trial: BaseTrial, offered: Sequence[str]) -> None:
        self._trial = trial
        self._offered = offered

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        if name == "feature_taps":
            choices = self._offered
        if not choices:
            raise ProtocolError(
                "it reads last1, which the protocol lacks: name it in --taps, or give --space, "
                "a search space of your own"
            )
        return self._trial.suggest_categorical(name, choices)


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
        _check_student("it", recipe, students)
        return recipe

    enqueued: dict[str, Mapping[str, Any]] = {}
    for title, parameters in space.enqueued.items():
        recipe = propose(
            space, FixedTrial({**parameters}), f"{space.name}.py", f"ENQUEUED[{title!r}]", {}
        )
        _check_student(f"{space.name}: ENQUEUED[{title!r}]", recipe, feasible)
        asks = not recipe.student and len(students) > 1
        enqueued[title] = {**parameters, "student": feasible[0]} if asks else parameters
    found = replace(space, suggest=suggest, enqueued=enqueued)
    _check(found, f"{space.name}.py" if space.file else f"the search space {space.name}")
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
        raise ProtocolError(
            f"a space's file cannot be called {path.name}: {path.stem} is the name of a built-in "
            f"arm; rename {path}"
        )
    spec = importlib.util.spec_from_file_location(f"search_space_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ProtocolError(f"--space takes a Python file (.py), got {path}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        place = place_in(error, lambda file: path.name if file == path.absolute() else "")
        at = f" ({place})" if place else ""
        raise ProtocolError(f"{path} does not import: {one_line(error)}{at}") from error
    if not callable(getattr(module, "suggest", None)):
        raise ProtocolError(f"{path} lacks the function suggest(trial) -> Recipe")
    enqueued = getattr(module, "ENQUEUED", {})
    if not isinstance(enqueued, dict) or not all(isinstance(v, dict) for v in enqueued.values()):
        raise ProtocolError(f"{path}: ENQUEUED must be a dict from titles to dicts of parameters")
    return module


def _check(space: Space, path: str) -> None:
    """Try the space: what it enqueues, and random trials, must come out as recipes.

    All of them together must ask for what one study can keep.
    """
    asked: Asked = {}
    for number, (title, parameters) in enumerate(space.enqueued.items()):
        trial = FixedTrial(dict(parameters), number)
        what = f"ENQUEUED[{title!r}]"
        propose(space, trial, path, what, asked)
        try:
            check_enqueued(parameters, trial.distributions)
        except ProtocolError as error:
            raise ProtocolError(f"{path}: {what}: {error}") from None
        unused = sorted(set(parameters) - set(trial.params))
        if unused:
            raise ProtocolError(f"{path}: suggest of {what} does not ask for {', '.join(unused)}")
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    optuna.logging.set_verbosity(verbosity)
    for _ in range(DRAWS):
        propose(space, study.ask(), path, "a random trial", asked)


def propose(space: Space, trial: BaseTrial, where: str, what: str, asked: Asked) -> Recipe:
    """Return the recipe that a space suggests, and add to `asked` what it asks for.

    Raises ProtocolError, naming the space's file as `where`, the line, and the trial as `what`,
    for whatever its `suggest` raises, for what is not a Recipe, and for parameters that Optuna
    cannot keep or that differ from those in `asked`.
    """
    try:
        with warnings.catch_warnings():  # Optuna only warns of a value that is out of range
            warnings.filterwarnings("error", ".* out of the range of the distribution")
            recipe = space.suggest(cast(BaseTrial, AskedTrial(trial, asked)))
    except (Exception, SystemExit) as error:
        said = f"{where}{_place(space, error)}: {_reason(what, error)}"
        raise ProtocolError(said) from error
    if not isinstance(recipe, Recipe):
        said = f"{where}{_place(space)}: suggest of {what} returns {recipe!r}, not a Recipe"
        raise ProtocolError(said)
    return recipe


def _place(space: Space, error: BaseException | None = None) -> str:
    """Return where in the user's own file an error arose, as `, line 7, in suggest`.

    Where it did not arise in a line of it, the line is that of `suggest`. Empty for our own spaces.
    """
    file = space.file
    place = place_in(error, lambda path: file if str(path) == file else "") if error else ""
    found = place.partition(", ")[2] or space.line
    return f", {found}" if found else ""


def _reason(what: str, error: BaseException) -> str:
    """Say what a space raised, in our words where those of Optuna and Python are no help."""
    text = _one_line(error)
    if isinstance(error, ProtocolError):
        return f"suggest of {what}: {text}"
    if lacking := re.match("The value of the parameter '(.+)' is not found", text):
        return f"{what} lacks {lacking[1]}"
    if unknown := re.match(r"Recipe\.__init__\(\) got an unexpected .*'(\w+)'", text):
        known = ", ".join(field.name for field in fields(Recipe))
        return f"suggest of {what}: Recipe has no {unknown[1]!r}; its fields: {known}"
    return f"suggest of {what} raises {type(error).__name__}: {text}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
