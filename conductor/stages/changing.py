"""What changes a study's search spaces: `--fix`, `--range`, and recipes of another study."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from optuna.trial import FrozenTrial

from kd.errors import StudyError
from search_spaces.changes import Changes, WarmRecipe, read_changes
from search_spaces.space import Space
from storage.files.layout import Layout
from storage.files.ownership import check_inside
from storage.files.records import Finalists, StudySettings, WarmStart, WarmTrial
from storage.files.seal import openings
from storage.studies.databases import close_storage, open_storage
from storage.studies.studies import load_study, study_name
from storage.studies.urls import storage_file, without_password


def read_warm_start(layout: Layout, name: str, other: str, url: str = "") -> WarmStart:
    """Return the tuned recipes of study `other`, for study `name` under the same root.

    `url` is the storage of study `name`, whose password also opens that of the other. Raises
    StudyError where they are the same study, and where the other has no finalists or no trials.
    """
    if other == name:
        raise StudyError(f"--warm-start names another study, got {other}, the study itself")
    if other not in layout.studies:
        known = f"; there are {', '.join(layout.studies)}" if layout.studies else ""
        raise StudyError(f"there is no study {other} under {layout.root} to warm-start from{known}")
    paths = layout.study(other)
    check_inside(layout.root, paths.folder)
    if not paths.finalists.exists():
        raise StudyError(
            f"study {other} has no finalists to warm-start from; run: {paths.command('confirm')}"
        )
    settings, chosen = StudySettings.read(paths.settings), Finalists.read(paths.finalists)
    tuned = {one.arm: one.trial for one in chosen.finalists if one.role == "tuned"}
    same = without_password(url) == settings.storage
    trials = _read_trials((url if same else settings.storage) or layout.studies_url, other, tuned)
    return WarmStart(
        dataset=settings.dataset,
        tested=bool(openings(paths.seal)),
        fix=list(settings.fix),
        trials={
            arm: WarmTrial(
                number=trial.number,
                space=settings.spaces[arm].digest,
                parameters=dict(trial.params),
            )
            for arm, trial in trials.items()
        },
    )


def _read_trials(url: str, name: str, numbers: Mapping[str, int]) -> dict[str, FrozenTrial]:
    """Return a trial of each arm of a study, by arm. Raises StudyError where it has no such one."""
    lost = StudyError(
        f"the trials of study {name} are not in its storage, {without_password(url)}; restore it, "
        "or omit --warm-start"
    )
    file = storage_file(url)
    if file and not file.exists():  # opening it would create it
        raise lost
    storage = open_storage(url)
    try:
        return {
            arm: load_study(storage, study_name(name, arm)).get_trials(deepcopy=False)[number]
            for arm, number in numbers.items()
        }
    except LookupError:
        raise lost from None
    finally:
        close_storage(storage)


def check_warm(spaces: Sequence[Space], other: str, warm: WarmStart | None) -> None:
    """Raise StudyError if the tuned recipes of study `other` are of no arm of this study."""
    if warm and not any(space.warm for space in spaces):
        raise StudyError(
            f"study {other} has tuned recipes of {', '.join(warm.trials)}, and this study has the "
            f"arms {', '.join(space.name for space in spaces)}; choose others, or omit --warm-start"
        )


def make_changes(
    fix: tuple[str, ...], ranges: tuple[str, ...], other: str, warm: WarmStart | None
) -> Changes:
    """Return the changes of the search spaces that a study's settings describe."""
    changes = read_changes(fix, ranges)
    if warm is None:
        return changes
    there = read_changes(warm.fix, ()).fix
    recipes = {
        arm: WarmRecipe(title=f"tuned {arm} of {other}", parameters=trial.parameters, fix=there)
        for arm, trial in warm.trials.items()
    }
    spaces = {warm.trials[arm].space: recipe for arm, recipe in recipes.items()}
    return replace(changes, warm={**spaces, **recipes})


def changed_lines(spaces: Sequence[Space]) -> list[str]:
    """Return the lines on what `--fix`, `--range` and `--warm-start` change of a study's spaces."""
    matches = {space.name: space.changes.matches(space.parameters) for space in spaces}
    lines = []
    for flag in spaces[0].changes.flags:
        having = {name: found[flag] for name, found in matches.items() if found[flag]}
        applied = [f"{name} ({', '.join(found)})" for name, found in having.items()]
        lines.append(_line(flag, applied, [name for name in matches if name not in having]))
    if any(space.warm for space in spaces):
        cold = [space.name for space in spaces if not space.warm]
        lines.append(_line("--warm-start", [space.name for space in spaces if space.warm], cold))
    return [*lines, *(note for space in spaces for note in space.notes)]


def _line(flag: str, having: Sequence[str], others: Sequence[str]) -> str:
    """Return a line on the arms that a flag changes, and those that it does not."""
    without = f"; {', '.join(others)} {'has' if len(others) == 1 else 'have'} none"
    return f"{flag}: {', '.join(having) or 'no arm'}{without if others else ''}"
