"""The commands of `study.py`: each takes its options and returns its exit code."""

import argparse
import socket
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conductor.command_line.options import existing_study, make_request, received, storage_url
from conductor.command_line.presets import PRESETS, preset
from conductor.display import Display
from conductor.request import Request, Workers
from kd.errors import StudyError, require
from kd.protocol import Protocol
from storage.files.artifacts import read_record
from storage.files.layout import Layout, StudyLayout, command_line

if typing.TYPE_CHECKING:
    from reports.write.report import ReportPaths
    from workers.pools.worker_pool import WorkerPool


def run(options: argparse.Namespace) -> int:
    """Run a study, and print its result."""
    run_study(options)
    return 0


def run_study(options: argparse.Namespace) -> "ReportPaths":
    """Run a study, print its result, and return its report."""
    request = make_request(options)
    from conductor.study import Study

    display = Display()
    Study(request, display).run()
    return _conclude(request, display)


def confirm(options: argparse.Namespace) -> int:
    """Confirm the winners of a study, and print its result."""
    paths = existing_study(options)
    options.name = paths.name
    request = make_request(options)
    from conductor.study import Study

    display = Display()
    Study(request, display).confirm()
    _conclude(request, display)
    return 0


def _conclude(request: Request, display: Display) -> "ReportPaths":
    """Write the report, and print its headline and path."""
    from reports.write.report import write_report

    layout = Layout(request.root)
    paths = write_report(layout, request.name, request.url)
    named = ["--name", request.name] if request.storage else []
    display.say("")
    display.say(paths.headline)
    display.say(f"report:    {paths.html}")
    display.say(f"dashboard: {command_line(request.root, 'dashboard', *named)}")
    return paths


def report(options: argparse.Namespace) -> int:
    """Write a report again, compare several studies, or print the findings."""
    if options.studies and options.name is not None:
        raise StudyError(
            f"a study must be named once: omit --name {options.name} or {' '.join(options.studies)}"
        )
    layout = Layout(Path(options.root))
    studies = [existing_study(options, name) for name in options.studies or [options.name]]
    from reports.write.report import Place, describe, write_comparison, write_report

    places = [
        Place(layout=layout, name=paths.name, storage_url=storage_url(options, paths))
        for paths in studies
    ]
    if options.format != "html":
        print(describe(places, options.format), end="")
        return 0
    display = Display()
    if len(places) > 1:
        path = layout.comparison
        display.say(write_comparison(places, path))
        display.say(f"report: {path}")
        return 0
    written = write_report(layout, places[0].name, places[0].storage_url)
    display.say(written.headline)
    display.say(f"report: {written.html}")
    return 0


def dashboard(options: argparse.Namespace) -> int:
    """Serve optuna-dashboard until Ctrl-C."""
    layout = Layout(Path(options.root))
    url = options.storage or _dashboard_url(options, layout)
    _check_port(options.host, options.port)
    from optuna.artifacts import FileSystemArtifactStore
    from optuna_dashboard import run_server

    from storage.studies.databases import open_storage

    layout.artifacts.mkdir(parents=True, exist_ok=True)
    storage, store = open_storage(url), FileSystemArtifactStore(layout.artifacts)
    Display().say(f"dashboard: http://{options.host}:{options.port}/ (Ctrl-C ends it)")
    run_server(storage, host=options.host, port=options.port, artifact_store=store)
    return 0


def _dashboard_url(options: argparse.Namespace, layout: Layout) -> str:
    """Return the URL of the root's storage or, without one, of the named or only study's."""
    if options.name is None and layout.database.exists():
        return layout.studies_url
    return storage_url(options, existing_study(options))


def _check_port(host: str, port: int) -> None:
    require("--port must lie in 1-65535", 1 <= port <= 65535, port)
    try:
        with socket.create_server((host, port)):
            return
    except OSError as error:
        raise StudyError(f"cannot serve {host}:{port}: {error}; choose another --port") from None


def verify(options: argparse.Namespace) -> int:
    """Compare every shard with its checksums, and random rows with the teacher."""
    require("--rows must be at least 1", options.rows >= 1, options.rows)
    paths = existing_study(options)
    from conductor.tools.verifying import verify_cache

    with _workers(options, paths) as workers:
        verify_cache(paths, workers, options.rows, Display())
    return 0


@contextmanager
def _workers(options: argparse.Namespace, paths: StudyLayout) -> Iterator["WorkerPool"]:
    """Yield the workers of a command on an existing study; they end after the block."""
    from workers.pools.worker_pool import WorkerPool

    threads = read_record(paths.protocol, Protocol).threads
    pool = Workers(**received(options, Workers)).pool(Path(options.root), threads)
    try:
        pool.start()
        yield WorkerPool(pool)
    finally:
        pool.close()


def export(options: argparse.Namespace) -> int:
    """Export a confirmed student."""
    paths, layout = existing_study(options), Layout(Path(options.root))
    from conductor.tools.exporting import Export, check_format, choose
    from reports.write.report import Place

    check_format(options.format)
    url = storage_url(options, paths)
    findings = Place(layout=layout, name=paths.name, storage_url=url).read()
    choice = choose(findings.data, options.finalist, paths.command("confirm"))
    default = paths.export(choice.finalist.key, choice.run.replicate)
    order = Export(
        paths=paths,
        findings=findings,
        choice=choice,
        target=Path(options.out) if options.out else default,
        onnx=options.format == "onnx",
    )
    order.check_target()
    with _workers(options, paths) as workers:
        order.run(workers, Display())
    return 0


def reproduce(options: argparse.Namespace) -> int:
    """Train one run again; the exit code is 0 if its result is equal to the last bit, else 1."""
    paths = existing_study(options)
    from conductor.tools.reproducing import finalist_subject, reproduce_run, trial_subject

    subject = (
        trial_subject(paths, options.trial, options.arm)
        if options.finalist is None
        else finalist_subject(paths, options.finalist, options.replicate)
    )
    with _workers(options, paths) as workers:
        same = reproduce_run(paths, subject, workers, Display(), paths.command("verify"))
    return 0 if same else 1


def doctor(options: argparse.Namespace) -> int:
    """Examine this machine; the exit code is 0 when every part works, else 1."""
    from conductor.tools.doctor import Doctor
    from conductor.tools.tiny_study import doctor_request

    request = doctor_request(Path(options.root), **received(options, Request, "root", "command"))
    return 0 if Doctor(request, Display()).run() else 1


def presets(options: argparse.Namespace) -> int:
    """List the presets with their first lines."""
    display = Display()
    for name in PRESETS.names:
        protocol = {"dataset": "folder:PATH", **preset(name)}
        display.say(
            f"{name:14} {protocol['dataset']} at {protocol['image_size']} pixels: "
            f"{', '.join(protocol['teachers'])} to {', '.join(protocol['students'])}, "
            f"{protocol['epochs']} epochs"
        )
    return 0
