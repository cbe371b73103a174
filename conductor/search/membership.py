"""Membership: which supervisors share a study, and which of them have died."""

import os
import secrets
import socket
import time
from contextlib import suppress
from dataclasses import dataclass

import optuna

from kd.errors import StudyError

BEAT_SECONDS = 5.0  # between two signs of life
DEAD_SECONDS = 30.0  # without one, after which a supervisor's trials are taken over


@dataclass(slots=True)
class _Seen:
    """What we saw of another supervisor: its count, when we looked last, seconds of silence."""

    beats: int
    looked: float
    silence: float = 0.0


class Membership:
    """This supervisor among those that share a study.

    Each counts its beats in the study's user attributes. Another is dead once its count has not
    changed for `DEAD_SECONDS` of our own clock: no two clocks are compared, and time in which we
    did not look (a server was away, the machine slept) counts for little. In a storage that is a
    file a supervisor is alone, and whoever owned a trial before has died.
    """

    def __init__(self, study: optuna.Study, *, shared: bool) -> None:
        self.id = secrets.token_hex(8)
        self.shared = shared
        self._study = study
        self._beats = 0
        self._last = -BEAT_SECONDS
        self._seen: dict[str, _Seen] = {}

    def beat(self) -> None:
        """Give a sign of life, if the last one is old enough."""
        now = time.monotonic()
        if self.shared and now - self._last >= BEAT_SECONDS:
            self._last = now
            self._beats += 1
            self._say(self._beats)

    def leave(self) -> None:
        """Say that this supervisor is gone, so that nobody waits for it; in vain if it cannot."""
        if self.shared and self._beats:
            with suppress(StudyError):
                self._say(-1)

    def is_dead(self, owner: str) -> bool:
        """Whether the supervisor `owner` has left, or given no sign of life for long enough."""
        if owner == self.id:
            return False
        if not self.shared:
            return True
        beats = self._study.user_attrs.get(f"supervisor:{owner}", {}).get("beats", -1)
        if beats < 0:
            return True
        now = time.monotonic()
        seen = self._seen.setdefault(owner, _Seen(beats, now))
        if beats != seen.beats:
            seen.beats, seen.silence = beats, 0.0
        else:
            seen.silence += min(now - seen.looked, BEAT_SECONDS)
        seen.looked = now
        return seen.silence >= DEAD_SECONDS

    def _say(self, beats: int) -> None:
        sign = {"host": socket.gethostname(), "pid": os.getpid(), "beats": beats}
        self._study.set_user_attr(f"supervisor:{self.id}", sign)
