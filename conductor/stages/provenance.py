"""Provenance: a study's record of its settings, and the check that a resumed study has the same."""

import os
import platform
from dataclasses import fields, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from conductor.request import CHANGES, EVIDENCE, KEPT, Request
from conductor.stages.moving import is_moved
from conductor.stages.preparing import Prepared
from kd.dataset_names import parse_own_dataset
from kd.errors import StudyError
from kd.names import parse_loss, parse_model, parse_weights
from kd.protocol import Protocol
from reports.wording import tap_words
from search_spaces.space import Space
from storage.files.artifacts import read_record, write_json
from storage.files.layout import StudyLayout
from storage.files.records import Finalists, SpaceSource, StudySettings
from storage.studies.urls import masked, storage_file, without_password
from workers.jobs import JobContext

THEN = "; then "  # between the kernels of sessions with different ones
LIBRARIES = ("torch", "torchvision", "optuna", "numpy", "scipy", "scikit-learn", "safetensors")


def read_context(paths: StudyLayout) -> JobContext:
    """Return the context of an existing study's jobs."""
    settings, protocol = StudySettings.read(paths.settings), read_record(paths.protocol, Protocol)
    return JobContext(
        protocol=protocol,
        root=str(paths.folder.parent),
        dataset=settings.dataset,
        teachers=settings.teachers,
        shards=settings.shards,
        cache=settings.cache,
        taps=protocol.tap_names if settings.taps is None else tuple(settings.taps),
    )


def kept_settings(paths: StudyLayout, request: Request, url: str) -> StudySettings | None:
    """Return the recorded settings of a study; None if it is new, or may start over.

    A study without teachers has no results yet: where its storage, `url`, is a file, so that it
    has one supervisor, it may start over with other options. Raises StudyError if a study with a
    teacher has another protocol or other settings; the path of its data set may differ.
    """
    kept = StudySettings.read(paths.settings) if paths.settings.exists() else None
    is_free = kept is not None and not kept.teachers and storage_file(url) is not None
    try:
        _check_resumable(paths, request, may_move=not is_free)
    except StudyError:
        if not is_free or (kept and kept.storage != without_password(request.storage)):
            raise
        return None
    return kept


def _check_resumable(paths: StudyLayout, request: Request, *, may_move: bool) -> None:
    """Raise StudyError if the study exists with another protocol or other settings.

    With `may_move`, data at another path are left to `conductor.stages.moving.find_data`.
    """
    if paths.protocol.exists():
        kept_protocol = read_record(paths.protocol, Protocol)
        dataset = request.protocol.dataset
        if may_move and is_moved(kept_protocol.dataset, dataset):
            kept_protocol = replace(kept_protocol, dataset=dataset)
        _check_models(paths.name, kept_protocol, request.protocol)
        differences = kept_protocol.differences(request.protocol)
        if differences:
            raise StudyError(
                f"study {paths.name} has another protocol ({', '.join(differences)}); "
                "omit these flags to continue it, or choose another --name"
            )
    if paths.settings.exists():
        kept = StudySettings.read(paths.settings)
        if request.sampler and not kept.sampler:
            raise StudyError(
                f"study {paths.name} was begun with a search by promotion; omit --sampler and "
                "--pruner to continue it, or choose another --name"
            )
        for flag in KEPT:
            recorded, received = getattr(kept, flag), getattr(request, flag)
            if flag == "storage":
                recorded, received = without_password(recorded), without_password(received)
            if recorded != received:
                was, now = _flag(flag, recorded), _flag(flag, received)
                raise StudyError(
                    f"study {paths.name} was begun with {was}, not {now}; omit the flag "
                    "to continue it, or choose another --name"
                )


def _flag(name: str, value: str | int | tuple[str, ...]) -> str:
    """Return an option as it is written, as in `--lag 4` or `--fix lr=0.05 --fix alpha=1`."""
    flag = f"--{name.replace('_', '-')}"
    if name not in CHANGES:
        return f"{flag} {value!r}" if value != "" else f"no {flag}"
    values = value if isinstance(value, tuple) else (value,)
    return " ".join(f"{flag} {one}" for one in values if one) or f"no {flag}"


def _check_models(name: str, kept: Protocol, wanted: Protocol) -> None:
    """Raise StudyError if the file of a model or loss of the user's own, or of weights, changed."""
    was, now = (_digests(protocol) for protocol in (kept, wanted))
    was_file, now_file = (parse_weights(protocol.student_weights) for protocol in (kept, wanted))
    if was_file and now_file and was_file.path == now_file.path and was_file != now_file:
        raise StudyError(
            f"{was_file.path} has changed since study {name} was begun; restore it, or choose "
            "another --name"
        )
    for base, digest in was.items():
        if now.get(base, digest) != digest:
            raise StudyError(
                f"{base.partition(':')[0]}, or a file that it imports, has changed since study "
                f"{name} was begun; restore it, choose another --name, or continue with the "
                f"stored copy: omit its flags, and pass --name {name}"
            )


def _digests(protocol: Protocol) -> dict[str, str]:
    """Return the digests of the user's files by what they are used for, as `mine.py:small`."""
    models = map(parse_model, protocol.models)
    digests = {model.base: model.digest for model in models}
    if data := parse_own_dataset(protocol.dataset):
        digests[data.base] = data.digest
    if protocol.loss and (loss := parse_loss(protocol.loss)):
        digests[loss.base] = loss.digest
    return digests


def begin_settings(
    paths: StudyLayout,
    request: Request,
    spaces: list[Space],
    prepared: Prepared,
    kept: StudySettings | None,
) -> StudySettings:
    """Write protocol and settings; where the study has settings (`kept`), check them first.

    Raises StudyError if the teacher, its cache or a search space has changed.
    """
    sources = {
        space.name: SpaceSource(source=space.source, digest=space.digest) for space in spaces
    }
    if kept:
        _check_unchanged(paths, kept, prepared, sources)
        sources = {**kept.spaces, **sources}
    options: dict[str, Any] = {name: getattr(request, name) for name in KEPT}
    command = kept.command if kept else masked(_without(request.command, "--timeout"))
    was = read_record(paths.protocol, Protocol) if kept else request.protocol
    settings = StudySettings(
        arms=list(sources),
        spaces=sources,
        **{**options, "storage": without_password(request.storage)},
        warm=request.warm,
        dataset=prepared.dataset,
        teachers=prepared.teachers or (kept.teachers if kept else ()),
        shards=prepared.shards or (kept.shards if kept else ()),
        cache=prepared.cache or (kept.cache if kept else ""),
        passed_over=_first(prepared.passed_over, kept.passed_over if kept else None),
        taps=kept.taps if kept and prepared.modules is None else prepared.modules,
        created=kept.created if kept else datetime.now(UTC).isoformat(timespec="seconds"),
        command=_with_place(command, was.dataset, request.protocol.dataset),
        versions=_versions(request.protocol),
        machine=machine(
            kernels_so_far(kept.machine.get("kernels", "") if kept else "", prepared.kernels)
        ),
        seconds=kept.seconds if kept else {},
        timeout=kept.timeout if kept else 0.0,
        planned=kept.planned if kept else 0,
    )
    write_json(paths.protocol, request.protocol.to_json())
    settings.write(paths.settings)
    return settings


def _versions(protocol: Protocol) -> dict[str, str]:
    """Return the versions of the libraries that the study uses, also those that have its models."""
    models = map(parse_model, protocol.models)
    of_models = (model.library for model in models if model.library)
    return {name: version(name) for name in dict.fromkeys((*LIBRARIES, *of_models))}


def remember_command(paths: StudyLayout, trials: int, chosen: Finalists) -> None:
    """Record the one command that repeats the work of all sessions so far.

    `trials` is the number of counted trials of an arm.
    """
    settings = StudySettings.read(paths.settings)
    ablated = any(finalist.role == "ablation" for finalist in chosen.finalists)
    command = composed(settings.command, trials, chosen.seeds, ablate=ablated)
    replace(settings, command=command).write(paths.settings)


def remember_timeout(paths: StudyLayout, seconds: float, planned: int) -> None:
    """Record whether the search was ended by time, after `seconds`, before `planned` trials."""
    settings = StudySettings.read(paths.settings)
    if (settings.timeout, settings.planned) != (seconds, planned):
        replace(settings, timeout=seconds, planned=planned).write(paths.settings)


def composed(command: list[str], trials: int, seeds: int, *, ablate: bool) -> list[str]:
    """Return the command with these totals.

    The number of trials never shrinks: if a search is confirmed before its end, the planned number
    stays.
    """
    defaults: dict[str, Any] = {field.name: field.default for field in fields(Request)}
    planned = int(_last(command, "--trials") or defaults["trials"])
    evidence = _last(command, "--seeds", "--evidence") or str(defaults["seeds"])
    words = list(command)
    if planned < trials:
        words = [*_without(words, "--trials"), "--trials", str(trials)]
    if int(EVIDENCE.get(evidence, evidence)) != seeds:
        words = [*_without(words, "--seeds", "--evidence"), "--seeds", str(seeds)]
    return [*words, "--ablate"] if ablate and "--ablate" not in words else words


def _with_place(command: list[str], was: str, now: str) -> list[str]:
    """Return the command with the data set `now`, if it is the one that `was`, at another path."""
    return [*_without(command, "--dataset"), "--dataset", now] if is_moved(was, now) else command


def _last(words: list[str], *flags: str) -> str:
    """Return the last value of these flags, from `--seeds 3` or `--seeds=3`; empty without one."""
    value = ""
    for before, word in zip(["", *words], words, strict=False):
        flag, equals, text = word.partition("=")
        if before in flags:
            value = word
        elif equals and flag in flags:
            value = text
    return value


def _without(words: list[str], *flags: str) -> list[str]:
    """Return the words without these flags and their values."""
    before = ["", *words]
    return [
        word
        for last, word in zip(before, words, strict=False)
        if last not in flags and word.partition("=")[0] not in flags
    ]


def _first(*values: str | None) -> str:
    return next((value for value in values if value is not None), "")


def _check_unchanged(
    paths: StudyLayout, kept: StudySettings, prepared: Prepared, sources: dict[str, SpaceSource]
) -> None:
    changed = [
        what
        for what in ("teachers", "shards")  # a new study has none of them yet
        if (was := getattr(kept, what)) and (now := getattr(prepared, what)) and was != now
    ]
    changed += [
        f"search space {arm}"
        for arm, source in sources.items()
        if arm in kept.spaces and kept.spaces[arm].digest != source.digest
    ]
    if changed:
        raise StudyError(
            f"since study {paths.name} was begun, its {', '.join(changed)} changed (the files, or "
            "the version of torch); restore them, or choose another --name"
        )


def check_taps(name: str, kept: StudySettings, prepared: Prepared) -> None:
    """Raise StudyError if a study's taps are others than when it was begun."""
    was, now = kept.taps, prepared.modules
    if None not in (was, now) and was != now:
        raise StudyError(
            f"study {name} was begun with other taps ({tap_words(was or {})}; now "
            f"{tap_words(now or {})}): the models have changed; restore the version of their "
            "library, or choose another --name"
        )


def kernels_so_far(was: str, now: str) -> str:
    """Return the kernels of all sessions in order, since results depend on them.

    `was` has those of earlier sessions, empty if none ran on a CPU.
    """
    if not now or not was:
        return now
    return was if was.split(THEN)[-1] == now else f"{was}{THEN}{now}"


def kernels_change(kept: StudySettings, now: str) -> str:
    """Return the line to print if a study continues with other kernels; else empty."""
    was = kept.machine.get("kernels", "").split(THEN)[-1]
    if not was or not now or was == now:
        return ""
    return (
        f"kernels: this study was computed with {was}, and continues with {now}: "
        "further results may differ in their last bits from those of an uninterrupted study"
    )


def versions_change(kept: StudySettings, protocol: Protocol) -> str:
    """Return the line to print if a study continues with other libraries; else empty."""
    now = _versions(protocol)
    changed = [
        f"{name} {kept.versions[name]}, now {now[name]}"
        for name in now
        if name in kept.versions and kept.versions[name] != now[name]
    ]
    if not changed:
        return ""
    return (
        f"versions: this study was begun with {', '.join(changed)}: further results may differ "
        "from those of an uninterrupted study"
    )


def machine(kernels: str) -> dict[str, str]:
    """Describe the machine; `kernels` are those of convolutions, empty on a GPU."""
    return {
        **({"kernels": kernels} if kernels else {}),
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
    }
