"""A study's data set is known by its content, so that its files may be moved."""

from pathlib import Path

from conductor.display import Display
from conductor.request import Request
from conductor.stages.preparing import Preparation, Prepared
from kd.dataset_names import without_path
from kd.errors import DataError, StudyError
from kd.protocol import Protocol
from storage.files.artifacts import read_record
from storage.files.layout import StudyLayout
from storage.files.records import StudySettings


def is_moved(was: str, now: str) -> bool:
    """Return whether two names of data sets, as in `folder:photos`, differ in their paths alone."""
    return was != now and without_path(was) == without_path(now)


def find_data(
    preparation: Preparation,
    request: Request,
    paths: StudyLayout,
    kept: StudySettings | None,
    display: Display,
) -> Prepared:
    """Prepare the data set; that of an existing study, with the settings `kept`, is compared.

    Raises DataError for a data set that cannot be read, and StudyError for one with other content
    than the study's.
    """
    if kept is None:
        return preparation.data()
    was, now = read_record(paths.protocol, Protocol).dataset, request.protocol.dataset
    try:
        data = preparation.data()
    except DataError as error:
        raise DataError(f"{error}{_remedy(paths.name, was, now)}") from error
    if data.dataset != kept.dataset:
        raise StudyError(_difference(paths.name, was, now))
    if was != now:
        display.say(f"data: found again at {now}, with the same content as before at {was}")
    return data


def _difference(name: str, was: str, now: str) -> str:
    """Return the error for data with other content than a study's."""
    if was != now:
        return (
            f"{now} has other content than the data of study {name}, which were at {was}: name the "
            "place of the same files, or choose another --name"
        )
    return (
        f"since study {name} was begun, the content of its data set {now} changed; restore the "
        f"files, or choose another --name{_remedy(name, was, now)}"
    )


def _remedy(name: str, was: str, now: str) -> str:
    """Return the end of an error on files that a study does not find; empty if it has no path."""
    if was != now:
        return f"; the data of study {name} were last at {was}"
    source, path = without_path(now), now.partition(":")[2]
    if source == now or Path(path).exists():
        return ""
    return f"; if the data were moved, continue with --name {name} --dataset {source}:NEWPLACE"
