"""What a study writes down of how it is run, and the refusal to go on in another way."""

import os
import platform
import re
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version

from conductor.command_line.flags import add_run_flags
from conductor.request import Request
from conductor.stages.preparing import Prepared
from kd.errors import StudyError
from kd.names import parse_model
from kd.protocol import Protocol
from search_spaces.space import Space
from storage.files.artifacts import read_record, write_json
from storage.files.layout import StudyLayout
from storage.files.records import Finalists, SpaceSource, StudySettings
from storage.studies.databases import storage_file, without_password

LIBRARIES = ("torch", "torchvision", "optuna", "numpy", "scipy", "scikit-learn", "safetensors")


def kept_settings(paths: StudyLayout, request: Request, url: str) -> StudySettings | None:
    """Return what the study was begun with; None for one that is new, or that begins anew.

    Until its teacher is there nothing has come of a study. Where its storage, `url`, is a file, so
    that it has one supervisor, it may then be asked for in another way. Raises StudyError if one
    that has come further has another protocol or other settings.
    """
    kept = StudySettings.read(paths.settings) if paths.settings.exists() else None
    try:
        _check_resumable(paths, request)
    except StudyError:
        moved = kept and kept.storage != without_password(request.storage)
        if kept is None or kept.teacher or moved or storage_file(url) is None:
            raise
        return None
    return kept


def _check_resumable(paths: StudyLayout, request: Request) -> None:
    """Raise StudyError if the study exists with another protocol or other settings."""
    if paths.protocol.exists():
        kept_protocol = read_record(paths.protocol, Protocol)
        _check_models(paths.name, kept_protocol, request.protocol)
        differences = kept_protocol.differences(request.protocol)
        if differences:
            raise StudyError(
                f"study {paths.name} has another protocol ({', '.join(differences)}); "
                "leave these flags out to go on with it, or give --name another name"
            )
    if paths.settings.exists():
        kept = StudySettings.read(paths.settings)
        for flag in ("sampler", "pruner", "lag", "storage"):
            was, wanted = getattr(kept, flag), getattr(request, flag)
            if flag == "storage":
                was, wanted = without_password(was), without_password(wanted)
            if was != wanted:
                raise StudyError(
                    f"study {paths.name} was begun with --{flag} {was!r}, not {wanted!r}; "
                    "leave the flag out to go on with it, or give --name another name"
                )


def _check_models(name: str, kept: Protocol, wanted: Protocol) -> None:
    """Raise StudyError if the file of a model of the user's own has changed since."""
    was, now = (
        {model.base: model.digest for model in map(parse_model, (one.teacher, *one.students))}
        for one in (kept, wanted)
    )
    for base, digest in was.items():
        if now.get(base, digest) != digest:
            raise StudyError(
                f"the file {base.partition(':')[0]} has changed since study {name} was begun; "
                "bring it back, leave its flags out to go on with the copy that is kept, or give "
                "--name another name"
            )


def begin_settings(
    paths: StudyLayout,
    request: Request,
    spaces: list[Space],
    prepared: Prepared,
    kept: StudySettings | None,
) -> StudySettings:
    """Write protocol and settings down, or check them against what was written: `kept`.

    Raises StudyError when the data, the teacher, its cache or a search space has changed since.
    """
    sources = {
        space.name: SpaceSource(source=source, digest=space.digest)
        for space, source in zip(spaces, request.spaces, strict=True)
    }
    if kept:
        _check_unchanged(paths, kept, prepared, sources)
        sources = {**kept.spaces, **sources}
    settings = StudySettings(
        arms=list(sources),
        spaces=sources,
        sampler=request.sampler,
        pruner=request.pruner,
        lag=request.lag,
        storage=without_password(request.storage),
        dataset=prepared.dataset,
        teacher=prepared.teacher or (kept.teacher if kept else ""),
        shards=prepared.shards or (kept.shards if kept else ""),
        cache=prepared.cache or (kept.cache if kept else ""),
        passed_over=_first(prepared.passed_over, kept.passed_over if kept else None),
        created=kept.created if kept else datetime.now(UTC).isoformat(timespec="seconds"),
        command=kept.command if kept else masked(request.command),
        versions={name: version(name) for name in LIBRARIES},
        machine=machine(prepared.kernels),
        seconds=kept.seconds if kept else {},
    )
    write_json(paths.protocol, request.protocol.to_json())
    settings.write(paths.settings)
    return settings


def remember_command(paths: StudyLayout, trials: int, chosen: Finalists) -> None:
    """Write down the one command that makes what the sessions so far have made together.

    `trials` are those of an arm that count.
    """
    settings = StudySettings.read(paths.settings)
    ablated = any(finalist.role == "ablation" for finalist in chosen.finalists)
    command = composed(settings.command, trials, chosen.seeds, ablate=ablated)
    replace(settings, command=command).write(paths.settings)


def composed(command: list[str], trials: int, seeds: int, *, ablate: bool) -> list[str]:
    """Return the command with these numbers where it says others, and otherwise as it is.

    A total of trials never shrinks: a search that was confirmed before its end stays known as such.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    add_run_flags(parser)
    said, _ = parser.parse_known_args(command)
    words = list(command)
    if said.trials < trials:
        words = [*_without(words, "--trials"), "--trials", str(trials)]
    if said.seeds != seeds:
        words = [*_without(words, "--seeds", "--evidence"), "--seeds", str(seeds)]
    return [*words, "--ablate"] if ablate and not said.ablate else words


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


def masked(words: Sequence[str]) -> list[str]:
    """Return the words of a command line without the passwords of URLs."""
    return [_masked(last, word) for last, word in zip(["", *words], words, strict=False)]


def _masked(last: str, word: str) -> str:
    flag = match[0] if (match := re.match(r"--[\w-]+=", word)) else ""
    is_url = "://" in word or "--storage" in (last, flag.removesuffix("="))
    return flag + without_password(word.removeprefix(flag)) if is_url else word


def _check_unchanged(
    paths: StudyLayout, kept: StudySettings, prepared: Prepared, sources: dict[str, SpaceSource]
) -> None:
    changed = [
        what
        for what in ("dataset", "teacher", "shards")
        if getattr(kept, what) != getattr(prepared, what) and _known(kept, prepared, what)
    ]
    changed += [
        f"search space {arm}"
        for arm, source in sources.items()
        if arm in kept.spaces and kept.spaces[arm].digest != source.digest
    ]
    if changed:
        raise StudyError(
            f"since study {paths.name} was begun, its {', '.join(changed)} changed (the files, or "
            "the version of torch); bring that back, or give --name another name"
        )


def _known(kept: StudySettings, prepared: Prepared, what: str) -> bool:
    """Whether both sides have it: a study is written down before its teacher is there."""
    return bool(getattr(kept, what) and getattr(prepared, what))


def machine(kernels: str) -> dict[str, str]:
    """Describe the machine; `kernels` is what convolutions are computed with, empty on a GPU."""
    return {
        **({"kernels": kernels} if kernels else {}),
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
    }
