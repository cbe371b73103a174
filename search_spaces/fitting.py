"""Checks whether a recipe fits its study: its taps, student and losses."""

from collections.abc import Sequence

from kd.errors import ProtocolError
from kd.names import needs_one_label
from kd.recipe import Recipe
from search_spaces.context import NO_TAPS, StudyContext


def check_taps(recipe: Recipe, known: Sequence[str]) -> None:
    """Raise ProtocolError if a recipe reads a tap that is not among `known`."""
    missing = [tap for tap in recipe.feature_taps if tap not in known]
    if missing and not known:
        raise ProtocolError(f"it reads {', '.join(missing)}, and {NO_TAPS}")
    if missing:
        raise ProtocolError(
            f"it reads {', '.join(missing)}, and the protocol has {', '.join(known)}: use only "
            "these in the space, or add the others to --taps"
        )


def check_student(what: str, student: str, known: Sequence[str]) -> None:
    """Raise ProtocolError if `what` names a student that is not among `known`."""
    if student and student not in known:
        raise ProtocolError(f"{what} names the student {student!r}, not {', '.join(known)}")


def check_losses(recipe: Recipe, study: StudyContext) -> None:
    """Raise ProtocolError for another soft loss than the study's, where that has one, and for one
    that is not defined for the study's images, or teaches nothing.
    """
    kind = recipe.soft_kind
    if study.mixing and needs_one_label(kind):
        raise ProtocolError(
            f"it has soft_kind={kind}, which needs one label for each image, and --augment mixes "
            "images: use another soft_kind where study.mixing is true, or an --augment without "
            "mixup and cutmix"
        )
    if study.binary and kind == "zscore":
        raise ProtocolError(
            "it has the soft_kind 'zscore', which has no gradient with two classes, whose "
            "standardised logits are always -0.7 and 0.7: use kl or dist"
        )
    if study.loss and kind not in ("none", study.loss):
        raise ProtocolError(
            f"it has the soft_kind {kind!r}, and the study the loss {study.loss}: write "
            'soft_kind=study.loss or "kl" in the space, or omit --loss'
        )
    if recipe.own_loss and not study.loss:
        raise ProtocolError(f"it has the soft_kind {kind!r}, which the study lacks: add --loss")
