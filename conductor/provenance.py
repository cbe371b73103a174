"""What a study writes down of how it is run, and the refusal to go on in another way."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version

from conductor.preparing import Prepared
from conductor.settings import Request
from kd.errors import StudyError
from kd.protocol import Protocol
from search_spaces.space import Space
from storage.artifacts import read_json, write_json
from storage.layout import StudyLayout
from storage.records import SpaceSource, StudySettings

LIBRARIES = ("torch", "torchvision", "optuna", "numpy", "scipy", "scikit-learn", "safetensors")


def check_resumable(paths: StudyLayout, request: Request) -> None:
    """Raise StudyError if the study exists with another protocol or other settings."""
    if paths.protocol.exists():
        kept_protocol = Protocol.from_json(read_json(paths.protocol))
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
            if was != wanted:
                raise StudyError(
                    f"study {paths.name} was begun with --{flag} {was!r}, not {wanted!r}; "
                    "leave the flag out to go on with it, or give --name another name"
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
        storage=request.storage,
        dataset=prepared.dataset,
        teacher=prepared.teacher,
        shards=prepared.shards,
        cache=prepared.cache,
        created=kept.created if kept else datetime.now(UTC).isoformat(timespec="seconds"),
        command=kept.command if kept else request.command,
        versions={name: version(name) for name in LIBRARIES},
        machine=_machine(),
        seconds=kept.seconds if kept else {},
    )
    write_json(paths.protocol, request.protocol.to_json())
    settings.write(paths.settings)
    return settings


def _check_unchanged(
    paths: StudyLayout, kept: StudySettings, prepared: Prepared, sources: dict[str, SpaceSource]
) -> None:
    changed = [
        what
        for what in ("dataset", "teacher", "shards")
        if getattr(kept, what) != getattr(prepared, what)
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


def _machine() -> dict[str, str]:
    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
    }
