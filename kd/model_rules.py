"""Rules on the models of a protocol: teachers and students, their weights and taps."""

import re
from collections.abc import Sequence

from kd.errors import ProtocolError, require
from kd.names import WeightsFile, parse_model, parse_weights

DEFAULT_TAPS = ("last1", "last2", "last3")  # as far as teacher and students have them
PAIR = re.compile(r"\w[\w.-]*=\w[\w.-]*", re.ASCII)  # the teacher's and the student's
MOST_TEACHERS = 8


def one_spelling(teachers: Sequence[str], weights: Sequence[str]) -> tuple[str, ...]:
    """Return the teachers' weights once where they are the same for all, so that hashes are equal.

    Raises ProtocolError unless there are weights for one teacher or for each.
    """
    count = len(teachers)
    require(f"teachers must be 1 to {MOST_TEACHERS}", 1 <= count <= MOST_TEACHERS, teachers)
    rule = "teacher_weights must be given once, or once for each teacher"
    require(rule, len(weights) in (1, count), weights)
    return tuple(weights[:1] if len(set(weights)) == 1 else weights)


def check_teachers(teachers: Sequence[str], weights: Sequence[str], epochs: int) -> None:
    """Check the initial weights of each teacher, which is fine-tuned for `epochs`."""
    starts = list(zip(teachers, weights, strict=True))
    for place, (name, start) in enumerate(starts):
        _check_weights("teacher", name, start)
        if (name, start) in starts[:place]:
            raise ProtocolError(
                f"teachers must differ, got {name} twice; give each its own --teacher-weights, "
                "such as those of studies with other seeds"
            )
        own = parse_model(name).digest  # its function may return a trained model
        if epochs == 0 and start == "none" and not own:
            raise ProtocolError(
                f"a teacher needs weights or training, got {name} with teacher_epochs 0 and "
                "teacher_weights none; use --teacher-weights FILE, or --teacher-epochs 1"
            )


def check_students(students: Sequence[str], weights: str) -> None:
    """Check the initial weights of the students."""
    for name in students:
        file = _check_weights("student", name, weights)
        if file and len(students) > 1:
            raise ProtocolError(
                f"a file of weights fits one student, got {', '.join(students)}; name one "
                "--student, or use --student-weights pretrained or none"
            )


def _check_weights(role: str, name: str, weights: str) -> WeightsFile | None:
    """Return the file of a model's weights, if it is one. Raises ProtocolError for no weights."""
    try:
        file = parse_weights(weights)
    except ProtocolError as error:
        raise ProtocolError(f"{role}_{error}") from None
    if not parse_model(name).pretrained and weights == "pretrained":
        raise ProtocolError(
            f"there are no ImageNet weights for {name}; use --{role}-weights none, or FILE"
        )
    return file


def teacher_role(place: int) -> str:
    """Return what a teacher is called in records of all models: `teacher`, `teacher 2`, …"""
    return f"teacher {place + 1}" if place else "teacher"


def teacher_labels(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of teachers, those that repeat with a number: `resnet20#2`."""
    before = [names[:place].count(name) for place, name in enumerate(names)]
    return tuple(
        f"{name}#{count + 1}" if count else name for name, count in zip(names, before, strict=True)
    )


def is_teacher(role: str) -> bool:
    """Return whether this is what a teacher is called, and not the name of a student."""
    return bool(re.fullmatch("teacher( [2-9])?", role))


def tap_paths(taps: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the modules of the teacher and of the student in taps that are pairs."""
    pairs = [tap.partition("=") for tap in taps if "=" in tap]
    return tuple(pair[0] for pair in pairs), tuple(pair[2] for pair in pairs)


def checked_taps(taps: tuple[str, ...], models: Sequence[str]) -> tuple[str, ...]:
    """Check what is known before models are built; a job finds the rest (`workers.runners`).

    Returns the taps, empty where they are the default, so that hashes are equal.
    """
    if any("=" in tap for tap in taps):
        rule = "taps must be names such as last1, or all pairs such as layer4=blocks.5"
        require(rule, all(re.fullmatch(PAIR, tap) for tap in taps), taps)
        for paths in tap_paths(taps):
            require("taps must not repeat a module", len(set(paths)) == len(paths), taps)
        return taps
    parsed = {name: parse_model(name) for name in models}
    catalogue = {name: model.taps for name, model in parsed.items() if model.in_catalogue}
    for name, known in catalogue.items():
        for tap in taps:
            if tap not in known:
                raise ProtocolError(f"{name} has no tap {tap!r}; use --taps {','.join(known)}")
    for tap in taps:
        rule = "taps must be names such as last1, or pairs such as layer4=blocks.5"
        require(rule, bool(re.fullmatch("last[1-9][0-9]*", tap)), tap)
    return () if len(catalogue) == len(parsed) and taps == DEFAULT_TAPS else taps
