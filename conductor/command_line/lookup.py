"""Which study a command means, where its trials are, and how another command finds it."""

import argparse
from pathlib import Path

from kd.errors import StudyError
from storage.files.layout import Layout, StudyLayout, command_line
from storage.files.records import StudySettings


def existing_study(options: argparse.Namespace, name: str | None = None) -> StudyLayout:
    """Return the study that is named, or the only one. Raises StudyError otherwise."""
    name = options.name if name is None else name
    layout = Layout(Path(options.root))
    names = layout.studies
    if name is not None:
        paths = layout.study(name)
        if name not in names:
            known = f"; there are {', '.join(names)}" if names else ""
            raise StudyError(f"there is no study {name} under {layout.root}{known}")
    elif len(names) != 1:
        begin = command_line(options.root)
        what = f"name one of {', '.join(names)} with --name" if names else f"run: {begin}"
        raise StudyError(f"there are {len(names)} studies under {layout.root}; {what}")
    else:
        paths = layout.study(names[0])
    from conductor.study import check_inside

    check_inside(layout.root, paths.folder)
    return paths


def kept_spaces(kept: StudySettings) -> list[str]:
    """Return the search spaces of a study. Raises StudyError for a file that is there no more."""
    sources = [kept.spaces[arm].source for arm in kept.arms]
    for source in sources:
        if source.endswith(".py") and not Path(source).is_file():
            raise StudyError(f"the study's space {source} is gone; put it back")
    return sources


def storage_url(options: argparse.Namespace, paths: StudyLayout) -> str:
    """Return the URL of the study's trials: the flag's, what was kept, or the root's own."""
    kept = StudySettings.read(paths.settings).storage
    return options.storage or kept or Layout(Path(options.root)).studies_url
