"""The self-test: the parts of a study, and the tests of those that need no worker."""

import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna

from conductor.request import Request
from conductor.stages.preparing import Prepared
from conductor.stages.provenance import begin_settings
from conductor.tools.tiny_study import PROTOCOL, TinyStudy, doctor_request
from kd.errors import ArtifactError, StudyError
from reports.wording import show_size
from search_spaces.space import load_space
from storage.files.artifacts import locked, read_json, write_json
from storage.files.layout import Layout, sqlite_url
from storage.studies.databases import close_storage, open_storage
from storage.studies.studies import load_study, open_study, study_name
from storage.studies.urls import JOURNAL, storage_file

NAME = "doctor"  # of folders and studies that are its own
DEVICE = "mend PyTorch or its driver, or set CUDA_VISIBLE_DEVICES= to train on the CPU"
KERNELS = "train on a GPU, or install another version of torch"
INSTALL = "install anew: make install"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a study. `check` returns a description or raises; `remedy` is the advice then."""

    name: str
    check: Callable[[], str]
    remedy: str
    needs: tuple[str, ...] = ()


@contextmanager
def scratch(place: Path) -> Iterator[Path]:
    """Give a new folder under `place`; remove it afterwards, and the folders made for it."""
    new = [folder for folder in (place, *place.parents) if not folder.exists()]
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=place) as folder:
            yield Path(folder)
    finally:
        for made in new:
            with suppress(OSError):  # it was not made, or holds what others have put there
                made.rmdir()


def worker_part(study: TinyStudy) -> Part:
    """The part that all jobs need."""
    remedy = "see what it printed, or try: python study.py doctor --workers inline"
    return Part(name="worker", check=study.worker, remedy=remedy)


def parts(request: Request, study: TinyStudy, folder: Path) -> Sequence[Part]:
    """Return all parts but disk and worker, in the order in which they are needed.

    What they write is in `folder`, or beside the storage, and removed.
    """
    jobs = ("worker",)
    return (
        Part(name="storage", check=lambda: _storage(request), remedy="name another --storage"),
        Part(name="data", check=study.data, remedy=INSTALL, needs=jobs),
        Part(name="kernels", check=study.kernels, remedy=KERNELS, needs=("data",)),
        Part(name="views", check=study.views, remedy=DEVICE, needs=("data",)),
        Part(name="losses", check=study.losses, remedy=DEVICE, needs=jobs),
        Part(name="teacher", check=study.teacher, remedy=DEVICE, needs=("data",)),
        Part(name="shards", check=study.shards, remedy=DEVICE, needs=("teacher",)),
        Part(name="student", check=study.student, remedy=DEVICE, needs=("shards",)),
        Part(name="checkpoint", check=study.checkpoint, remedy=DEVICE, needs=("data",)),
        Part(name="report", check=lambda: _report(folder / "reported"), remedy=INSTALL),
        Part(name="dashboard", check=_dashboard, remedy=INSTALL),
    )


def disk_part(root: Path) -> Part:
    def check() -> str:
        with scratch(root) as folder:
            return _check_disk(folder)

    return Part(
        name="disk", check=check, remedy="name another --root, on a disk that keeps locks (flock)"
    )


def _check_disk(folder: Path) -> str:
    """Write and rename a file over another, read it back, and lock one twice."""
    path, value = folder / "file.json", {"written": "then renamed"}
    write_json(path, {})
    write_json(path, value)
    if read_json(path) != value:
        raise ArtifactError(f"{path} holds something else than was written")
    lock = folder / "file.lock"
    with locked(lock, wait=False) as first, locked(lock, wait=False) as second:
        if not first or second:
            raise ArtifactError(f"{lock} was granted to {'two owners' if first else 'nobody'}")
    return "a file is renamed over another, and a lock has one owner"


def _storage(request: Request) -> str:
    """Try a storage of the same kind and place as that of the studies.

    For a file, a new file beside it is tested; an existing file is opened too.
    """
    url, file = request.url, storage_file(request.url)
    if file is None:
        return _check_storage(url)
    journal = url.startswith(JOURNAL)
    if not (file.parent.is_dir() or journal or file.parent == request.root.absolute()):
        raise StudyError(f"{file.parent} is not a folder")
    there = f"; {_count_studies(url)} existing studies" if file.exists() else ""
    with scratch(file.parent) as folder:
        path = folder / file.name
        return _check_storage(f"{JOURNAL}{path}" if journal else sqlite_url(path)) + there


def _check_storage(url: str) -> str:
    """Write a trial into a study of its own, read it back and remove both."""
    storage = open_storage(url)
    name = f"{NAME}-{secrets.token_hex(6)}"
    try:
        study = open_study(storage, name, {})
        try:
            wanted = _add_trial(study)
            found = load_study(storage, name).trials
            if [(trial.params, trial.value) for trial in found] != [wanted]:
                raise StudyError("a trial was read with other values than were written")
        finally:
            optuna.delete_study(study_name=name, storage=storage)
    finally:
        close_storage(storage)
    return "a trial was written, read back and removed"


def _add_trial(study: optuna.Study) -> tuple[dict[str, Any], float]:
    params, value = {"lr": 0.1}, 0.5
    trial = study.ask({"lr": optuna.distributions.FloatDistribution(0.1, 0.1)})
    study.tell(trial, value)
    return params, value


def _count_studies(url: str) -> int:
    storage = open_storage(url)
    try:
        return len(storage.get_all_studies())
    finally:
        close_storage(storage)


def _report(root: Path) -> str:
    """Write the report of a study without trials."""
    from reports.write.report import write_report

    request, layout = doctor_request(root), Layout(root)
    spaces = [load_space(arm) for arm in request.spaces]
    prepared = Prepared(protocol=PROTOCOL, root=str(root))
    begin_settings(layout.study(NAME), request, spaces, prepared, None)
    storage = open_storage(layout.studies_url)
    try:
        for space in spaces:
            open_study(storage, study_name(NAME, space.name), {})
    finally:
        close_storage(storage)
    page = write_report(layout, NAME, layout.studies_url).html
    return f"a page of {show_size(page.stat().st_size)} about a study without trials"


def _dashboard() -> str:
    """Ask the dashboard, over an empty storage, which studies there are."""
    from optuna_dashboard import wsgi

    statuses: list[str] = []
    request: dict[str, Any] = {"PATH_INFO": "/api/studies"}
    setup_testing_defaults(request)
    app = wsgi(optuna.storages.InMemoryStorage())
    list(app(request, lambda status, *more: statuses.append(status)))
    if statuses != ["200 OK"]:
        raise StudyError(f"the dashboard answers {', '.join(statuses)}")
    return "it answers"
