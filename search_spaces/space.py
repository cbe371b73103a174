"""Load and test search spaces, which suggest recipes and list those to try first.

A space is a Python file with `suggest(trial) -> Recipe` or `suggest(trial, study) -> Recipe`, where
`study` is a `StudyContext`. The recipes to try first are a dict from titles to parameters:
`ENQUEUED` and the result of `enqueued(study)`. `--space path/to/mine.py` uses a file of your own.
"""

import inspect
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from optuna.trial import BaseTrial, FixedTrial

from kd.errors import ProtocolError, one_line
from kd.own_files import OwnFile, load_own, own_line, own_place, read_own
from kd.recipe import Recipe
from search_spaces import SPACES
from search_spaces.adapting import adapt
from search_spaces.changed_trial import ChangedTrial, check_change
from search_spaces.changes import Changes
from search_spaces.checks import CheckedTrial, Distributions, check_enqueued
from search_spaces.context import StudyContext
from search_spaces.digest import corner_trials, described, seeded_trials, space_digest
from search_spaces.fitting import check_losses, check_student, check_taps
from search_spaces.teachers import equal_shares, suggest_shares

DRAWS = 200  # trials with which a space is tested, so that errors in rare branches appear early
CORNERS = 40  # further ones, at the ends of ranges, which samplers may choose
Enqueued = Mapping[str, Mapping[str, Any]]
UNCHANGED = Changes()


@dataclass(frozen=True, slots=True)
class Space:
    """A search space: `enqueued` maps the title of each recipe to try first to its parameters.

    A study can be resumed only with a space of the same `digest` (see `search_spaces.digest`).
    `own` is the user's file, None for a built-in space; `line` is where it defines `suggest`.
    `module` is what the space was loaded from, and `where` names it in errors. `changes` are those
    of the command line, `parameters` the names before these, and `notes` are lines on what changed.
    `warm` is the title of another study's recipe that is tried too.
    """

    name: str
    suggest: Callable[[BaseTrial], Recipe]
    enqueued: Enqueued
    digest: str
    own: OwnFile | None = None
    line: str = ""
    module: Any = None
    where: str = ""
    changes: Changes = UNCHANGED
    parameters: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    warm: str = ""

    @property
    def source(self) -> str:
        """The name of a built-in space, or the file and its digest: `mine.py@1a2b3c4d5e6f`."""
        return f"{self.name}.py@{self.own.digest}" if self.own else self.name


def load_space(
    name_or_path: str, study: StudyContext | None = None, changes: Changes = UNCHANGED
) -> Space:
    """Return a built-in space by name, or a .py file, changed, prepared for a study and tested.

    If there are several students, the student is a parameter unless the recipe names it; teachers
    alike. Raises
    ProtocolError when the file is missing, does not import, lacks `suggest`, or suggests something
    other than a Recipe, or a recipe with a tap or student that the study lacks, or a loss that
    its augmentation rules out.
    """
    study = study or StudyContext()
    path, own, line = Path(name_or_path), None, ""
    where = f"the search space {name_or_path}"
    if name_or_path in SPACES.names:
        module: Any = SPACES.load(name_or_path)
    else:
        where, own = str(path), _read_file(path)
        module = load_own(own, where)
        if not callable(getattr(module, "suggest", None)):
            raise ProtocolError(f"{path} lacks the function suggest(trial) -> Recipe")
        line = own_line(module.suggest)
    space = Space(path.stem, module.suggest, {}, "", own, line, module, where, changes)
    return for_study(space, study)


def for_study(space: Space, study: StudyContext) -> Space:
    """Return a loaded space, prepared for a study and tested; raises as `load_space`."""
    suggest = _of_study(space.module.suggest, study)
    enqueued = _enqueued(space.module, space.where, study)
    space = replace(space, suggest=suggest, enqueued=enqueued, notes=(), warm="")
    if len(study.teachers) > 1:
        equal = equal_shares(study.teachers)
        values = {**equal, **({"student": study.students[0]} if study.students else {})}
        space = replace(space, enqueued=_completed(space, values, [*equal]))
    known: Distributions = {}
    digest = _try_out(space, space.where, study, known)
    space = replace(space, digest=digest, parameters=tuple(known))
    return _changed(space, study, known) if space.changes else space


def _changed(space: Space, study: StudyContext, known: Distributions) -> Space:
    """Return a tested space with its changes, tested again; `known` has its distributions."""
    changes, where = space.changes, space.where
    for name, distribution in known.items():
        check_change(changes, name, distribution)
    warm = changes.warm.get(space.name) or changes.warm.get(space.digest)
    space = replace(space, suggest=_of_study(space.module.suggest, study, changes))

    def suggest(trial: BaseTrial, what: str) -> Recipe:
        return propose(space, trial, where, what, {})

    try:
        enqueued, notes = adapt(space.enqueued, warm, suggest, known)
        notes = [f"{space.name}: {note}" for note in notes]
        space = replace(space, enqueued=enqueued, notes=tuple(notes))
        space = replace(space, warm=warm.title if warm else "")
        return replace(space, digest=_try_out(space, where, study, {}))
    except ProtocolError as error:  # without the changes there was none
        flags = [flag for flag, names in changes.matches(known).items() if names]
        raise ProtocolError(f"{', '.join(flags)}{': ' if flags else ''}{error}") from None


def _of_study(
    suggest: Callable[..., Recipe], study: StudyContext, changes: Changes | None = None
) -> Callable[[BaseTrial], Any]:
    """Return `suggest` as a function of the trial, which also suggests student and teachers."""
    try:
        takes_study = "study" in inspect.signature(suggest).parameters
    except ValueError:  # raised for some functions written in C
        takes_study = False

    def suggest_of_study(trial: BaseTrial) -> Any:
        if changes:
            trial = cast(BaseTrial, ChangedTrial(trial, changes))
        recipe = suggest(trial, study=study) if takes_study else suggest(trial)
        if not isinstance(recipe, Recipe):
            return recipe  # `propose` raises the error
        check_taps(recipe, study.taps)
        if not recipe.student and len(study.students) > 1:
            chosen = trial.suggest_categorical("student", study.students)
            recipe = replace(recipe, student=chosen)
        check_student("it", recipe.student, study.students)
        if len(study.teachers) > 1 and recipe.distils and not recipe.teacher_shares:
            recipe = replace(recipe, teacher_shares=suggest_shares(trial, study.teachers))
        recipe.shares(max(1, len(study.teachers)))  # raises for another number
        check_losses(recipe, study)
        return recipe

    return suggest_of_study


def _enqueued(module: Any, where: str, study: StudyContext) -> Enqueued:
    """Return a module's recipes to try first: its `ENQUEUED`, then those of `enqueued(study)`.

    Raises ProtocolError unless both are dicts of dicts, with texts as keys.
    """
    parts = {"ENQUEUED": getattr(module, "ENQUEUED", {})}
    if callable(of_study := getattr(module, "enqueued", None)):
        try:
            parts["enqueued(study)"] = of_study(study)
        except (Exception, SystemExit) as error:
            raise ProtocolError(f"{where}: enqueued(study): {one_line(error)}") from error
    enqueued: dict[str, Mapping[str, Any]] = {}
    for name, part in parts.items():
        if not _is_object(part) or not all(map(_is_object, part.values())):
            raise ProtocolError(
                f"{where}: {name} must be a dict from titles to dicts of parameters, with texts as "
                "keys"
            )
        enqueued |= part
    return enqueued


def _is_object(value: Any) -> bool:
    """Return whether a value is a dict whose keys are texts."""
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def with_feasible(space: Space, feasible: Sequence[str]) -> Space:
    """Return the space with the first feasible student in the recipes to try first.

    One that a recipe names itself, or that is fixed, is kept; raises ProtocolError if it is not
    feasible, unless the recipe is another study's.
    """
    space = _with_warm_student(space, feasible)
    fixed = space.changes.fix.get("student", feasible[0])
    if fixed not in feasible:
        raise ProtocolError(
            f"--fix student={fixed}: it exceeds the limits of the study; fix one of "
            f"{', '.join(feasible)}"
        )
    enqueued = _completed(space, {"student": feasible[0]}, ("student",))
    for title, parameters in enqueued.items():
        recipe = space.suggest(FixedTrial({**parameters}))
        check_student(f"{space.name}: ENQUEUED[{title!r}]", recipe.student, feasible)
    return replace(space, enqueued=enqueued)


def _with_warm_student(space: Space, feasible: Sequence[str]) -> Space:
    """Return the space without the student of another study's recipe, if it is not feasible."""
    warm = dict(space.enqueued.get(space.warm, {}))
    student = warm.pop("student", feasible[0])
    if student in feasible:
        return space
    note = f"{space.name}: “{space.warm}” is tried with another student than {student}"
    enqueued = {**space.enqueued, space.warm: warm}
    return replace(space, enqueued=enqueued, notes=(*space.notes, note))


def _completed(space: Space, values: Mapping[str, Any], names: Sequence[str]) -> Enqueued:
    """Return the recipes to try first, with those `values` of `names` that are parameters."""
    enqueued: dict[str, Mapping[str, Any]] = {}
    for title, parameters in space.enqueued.items():
        trial = FixedTrial({**values, **parameters})
        propose(space, trial, space.where, f"ENQUEUED[{title!r}]", {})
        added = {name: values[name] for name in names if name in trial.distributions}
        enqueued[title] = {**added, **parameters}
    return enqueued


def _read_file(path: Path) -> OwnFile:
    if not path.is_file():
        raise ProtocolError(f"--space takes a Python file, got {path}, which is not a file")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,30}", path.stem):
        raise ProtocolError(
            "a search space's file must be named with letters, digits and _, as it names the arm, "
            f"got {path.stem!r}"
        )
    if path.stem in SPACES.names:
        raise ProtocolError(
            f"a search space's file must not be named like a built-in arm, got {path.name}; "
            f"rename {path}"
        )
    return read_own(path)


def _try_out(space: Space, where: str, study: StudyContext, known: Distributions) -> str:
    """Test a space with its enqueued recipes, seeded trials and ends of ranges; return its digest.

    The distributions of all its parameters are added to `known`.

    Raises ProtocolError unless all give recipes, with parameters that one study can store.
    """
    enqueued = space.enqueued
    if len(study.students) > 1:
        enqueued = _completed(space, {"student": study.students[0]}, ("student",))
    for number, (title, parameters) in enumerate(enqueued.items()):
        trial = FixedTrial(dict(parameters), number)
        what = f"ENQUEUED[{title!r}]"
        propose(space, trial, where, what, known)
        try:
            check_enqueued(parameters, trial.distributions)
        except ProtocolError as error:
            raise ProtocolError(f"{where}: {what}: {error}") from None
        unused = sorted(set(parameters) - set(trial.params))
        if unused:
            raise ProtocolError(f"{where}: suggest of {what} does not use {', '.join(unused)}")
    draws = [
        described(trial, propose(space, trial, where, "a random trial", known))
        for trial in seeded_trials(DRAWS)
    ]
    for corner in corner_trials(CORNERS):
        propose(space, corner, where, "a trial at the ends of its ranges", known)
    return space_digest(draws, space.enqueued)


def propose(space: Space, trial: BaseTrial, where: str, what: str, known: Distributions) -> Recipe:
    """Return the recipe that a space suggests, and add its distributions to `known`.

    Raises ProtocolError, naming the space's file (`where`), the line and the trial (`what`), for
    any exception of `suggest`, a result that is not a Recipe, and parameters that Optuna cannot
    store or that conflict with `known`.
    """
    try:
        with warnings.catch_warnings():  # Optuna only warns of a value that is out of range
            warnings.filterwarnings("error", ".* out of the range of the distribution")
            recipe = space.suggest(cast(BaseTrial, CheckedTrial(trial, known)))
    except (Exception, SystemExit) as error:
        message = f"{where}{_place(space, error)}: {_reason(what, error)}"
        raise ProtocolError(message) from error
    if not isinstance(recipe, Recipe):
        message = f"{where}{_place(space)}: suggest of {what} returns {recipe!r}, not a Recipe"
        raise ProtocolError(message)
    return recipe


def propose_in_study(space: Space, trial: BaseTrial, what: str, known: Distributions) -> Recipe:
    """Return the recipe that a space suggests while a study runs. Raises as `propose`."""
    try:
        return propose(space, trial, f"{space.name}.py", what, known)
    except ProtocolError as error:
        kept = "the trials so far are kept; run the corrected space under another --name"
        raise ProtocolError(f"{error}; {kept}") from error


def _place(space: Space, error: BaseException | None = None) -> str:
    """Return where in the user's file an error was raised, as `, line 7, in suggest`.

    An imported file is named too. If no line of the user's raised it, that of `suggest` is
    returned. Empty for built-in spaces.
    """
    place = (own_place(error) if error else "") or space.line
    return f", {place.removeprefix(f'{space.name}.py, ')}" if place else ""


def _reason(what: str, error: BaseException) -> str:
    """Return a message on a space's exception, reworded where Optuna's or Python's is unclear."""
    text = " ".join(str(error).split())
    if isinstance(error, ProtocolError):
        return f"suggest of {what}: {text}"
    if lacking := re.match("The value of the parameter '(.+)' is not found", text):
        return f"{what} lacks {lacking[1]}"
    if unknown := re.match(r"Recipe\.__init__\(\) got an unexpected .*'(\w+)'", text):
        known = ", ".join(field.name for field in fields(Recipe))
        return f"suggest of {what}: Recipe has no {unknown[1]!r}; its fields: {known}"
    return f"suggest of {what} raises {one_line(error)}"
