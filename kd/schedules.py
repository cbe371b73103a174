"""Schedule shapes: how temperature and alpha depend on the progress of training.

A schedule is `initial + (final - initial) * fraction`, computed from Python floats, so that a step
never waits for a device. Every shape rises from 0 to 1 without decreasing, except `constant`, which
stays at 0; whether a schedule rises or falls follows from its two ends alone.
"""

import math
from collections.abc import Callable

from kd.errors import ProtocolError

EXPONENTIAL_RATE = 5.0  # the gap to the final value shrinks by exp(-5), to 0.7 %, before rescaling


def _constant(progress: float, sharpness: float) -> float:
    return 0.0


def _linear(progress: float, sharpness: float) -> float:
    return progress


def _cosine(progress: float, sharpness: float) -> float:
    return (1 - math.cos(math.pi * progress)) / 2


def _exponential(progress: float, sharpness: float) -> float:
    return math.expm1(-EXPONENTIAL_RATE * progress) / math.expm1(-EXPONENTIAL_RATE)


def _polynomial(progress: float, sharpness: float) -> float:
    """Power 0.5-4 on a logarithmic scale: 0.5 at sharpness 0, 1.41 at 0.5, 4 at 1."""
    power: float = 0.5 * 8**sharpness
    return float(progress**power)


def _step(progress: float, sharpness: float) -> float:
    """One jump, at progress 0.3 for sharpness 0 to 0.8 for sharpness 1."""
    return 1.0 if progress >= 0.3 + 0.5 * sharpness else 0.0


def _sigmoid(progress: float, sharpness: float) -> float:
    """A logistic curve about progress 0.5, of steepness 5-20, rescaled to reach 0 and 1 exactly."""
    steepness = 5 + 15 * sharpness
    low, high = _logistic(-steepness / 2), _logistic(steepness / 2)
    return (_logistic(steepness * (progress - 0.5)) - low) / (high - low)


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


SHAPES: dict[str, Callable[[float, float], float]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "exponential": _exponential,
    "polynomial": _polynomial,
    "step": _step,
    "sigmoid": _sigmoid,
}


def fraction(shape: str, progress: float, sharpness: float = 0.5) -> float:
    """Return how far a schedule has moved from its initial to its final value, in [0, 1].

    `progress` is step / total steps of the horizon, even if a trial is ended earlier.
    `sharpness` in [0, 1] is mapped by polynomial, step and sigmoid to their own scale; the other
    shapes ignore it. Raises ProtocolError outside these ranges.
    """
    if shape not in SHAPES:
        raise ProtocolError(f"unknown schedule shape {shape!r}; known: {', '.join(SHAPES)}")
    _check_progress(progress)
    if not 0 <= sharpness <= 1:
        raise ProtocolError(f"sharpness must lie in 0-1, got {sharpness}")
    return SHAPES[shape](progress, sharpness)


def _check_progress(progress: float) -> None:
    if not 0 <= progress <= 1:
        raise ProtocolError(f"progress must lie in 0-1, got {progress}")


def value(
    shape: str, initial: float, final: float, progress: float, sharpness: float = 0.5
) -> float:
    """Return the schedule's value at `progress`: `initial + (final - initial) * fraction`.

    Both ends are reached exactly: the second half is computed back from `final`, since in floats
    `initial + (final - initial)` need not be `final`.
    """
    share = fraction(shape, progress, sharpness)
    if share < 0.5:
        return initial + (final - initial) * share
    return final - (final - initial) * (1 - share)


def warmup_cosine(progress: float, warmup: float) -> float:
    """Return the learning-rate factor: linear from 0 over `warmup`, then a half cosine to 0.

    Both arguments are shares of the horizon; without warm-up it starts at 1. Raises ProtocolError
    unless `progress` lies in [0, 1] and `warmup` in [0, 1).
    """
    _check_progress(progress)
    if not 0 <= warmup < 1:
        raise ProtocolError(f"warmup must lie in 0-1 (1 excluded), got {warmup}")
    if progress < warmup:
        return progress / warmup
    return (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2
