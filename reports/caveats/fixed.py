"""Limitations of the protocol, which is fixed for the whole study."""

from collections.abc import Iterator

from reports.read.data import StudyData
from reports.wording import counted


def of_protocol(data: StudyData) -> Iterator[str]:
    protocol = data.protocol
    train = data.images.get("train", 0)
    if 0 < train < 2 * protocol.batch_size:  # the last incomplete batch of an epoch is left out
        held = "all" if train <= protocol.batch_size else f"{protocol.batch_size} of"
        examples = counted(train, f"training {data.example}")
        yield f"A batch contains {held} {examples}: 1 step per epoch."
    if protocol.confirm_horizon != protocol.epochs:
        yield (
            f"Recipes were searched at {counted(protocol.epochs, 'epoch')} and confirmed at "
            f"{protocol.confirm_horizon}: the best recipe at one need not be the best at the other."
        )
    if protocol.view_count < max(protocol.epochs, protocol.confirm_horizon):
        yield (
            f"Runs cycle through {counted(protocol.view_count, 'view')} of the training set and "
            f"see each more than once."
        )
    if protocol.cache_logits != "float32" and data.primary_arm:
        yield _of_logits(data)
    if data.settings.cache == "none" and data.primary_arm:
        what = (
            "teacher was not cached: it" if len(data.teachers) == 1 else "teachers were not: they"
        )
        yield f"The {what} ran during every distilled run."


def _of_logits(data: StudyData) -> str:
    """Return what students learned from where logits are not cached as they are."""
    whose = "teacher's" if len(data.teachers) == 1 else "teachers'"
    kept = data.protocol.cache_logits
    error = "" if data.settings.cache == "none" else " python study.py verify shows the error."
    if kept == "float16":
        return f"Students learned from the {whose} logits in float16, about 3 digits.{error}"
    return (
        f"Of the {whose} logits for an image, students learned from the {kept.removeprefix('top')} "
        "largest, in float16, and one number for all other classes: their probability together is "
        f"exact at temperature 1 and too large above.{error}"
    )
