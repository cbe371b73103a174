"""Describe any exception of a job in one line."""

import torch

from kd.errors import DivergenceError, ProtocolError, RetortError, one_line
from kd.own_files import own_place
from storage.files.logs import keep_traceback
from workers.events import Diverged, Failed, LastEvent
from workers.jobs import Job

LACKS = (OSError, MemoryError, torch.OutOfMemoryError)  # what a machine may lack: memory, a disk
SHOWN = 300  # characters of a message that stands whole in the log file
STARTED_ANEW = "correct it there, and start again with another --name"


def last_event(job: Job, error: BaseException) -> LastEvent:
    """Return the last event of a job that raised `error`.

    An error that arose in a file of the user's names file, line and function. One that is neither
    that, nor meant for the user, nor of what the machine lacks is a fault of ours: its traceback is
    kept in a file that the reason names.
    """
    if isinstance(error, DivergenceError):
        return Diverged(reason=str(error))
    if isinstance(error, RetortError):
        return Failed.of(error)
    memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if not memory and (place := own_place(error)):
        return Failed.of(ProtocolError(f"{one_line(error)} ({place}); {STARTED_ANEW}"))
    reason = " ".join((str(error) or repr(error)).split())
    if not isinstance(error, LACKS):
        reason = f"{reason[:SHOWN]}; {keep_traceback(job.layout, error)}"
    return Failed(kind=type(error).__name__, reason=reason)
