"""What changes a study's search spaces: `--fix`, `--range`, and recipes of another study."""

from collections.abc import Sequence
from dataclasses import replace

from kd.errors import StudyError
from search_spaces.changes import Changes, WarmRecipe, read_changes
from search_spaces.space import Space
from storage.files.layout import Layout
from storage.files.ownership import check_inside
from storage.files.records import Finalists, StudySettings, WarmStart, WarmTrial
from storage.files.seal import openings
from storage.studies.databases import close_storage, open_storage
from storage.studies.studies import load_study, study_name


def read_warm_start(layout: Layout, name: str, other: str) -> WarmStart:
    """Return the tuned recipes of study `other`, for study `name` under the same root.

    Raises StudyError where they are the same study, and where the other has no finalists.
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
    storage = open_storage(settings.storage or layout.studies_url)
    try:
        trials = {
            arm: load_study(storage, study_name(other, arm)).get_trials(deepcopy=False)[number]
            for arm, number in tuned.items()
        }
    finally:
        close_storage(storage)
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
        others = [name for name in matches if name not in having]
        applied = ", ".join(f"{name} ({', '.join(found)})" for name, found in having.items())
        without = f"; {', '.join(others)} {'has' if len(others) == 1 else 'have'} none"
        lines.append(f"{flag}: {applied or 'no arm'}{without if others else ''}")
    return [*lines, *(note for space in spaces for note in space.notes)]
