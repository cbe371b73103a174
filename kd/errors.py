"""Every error that Retort raises on purpose.

RetortError               one line for the user: the rule, the value received, the next command
├── ProtocolError         a protocol or recipe breaks a rule, or names something unknown
├── DataError             a data set is missing, empty, unreadable or too small
├── ArtifactError         a file that Retort keeps is missing, damaged or made for something else
├── StudyError            a study cannot be opened, resumed or owned
├── WorkerError           a worker died, or its job failed for a reason that is not in this tree
└── DivergenceError       a loss stopped being finite: a result of the recipe, not a fault
"""


class RetortError(Exception):
    """Base of all errors whose message is meant for the user."""


class ProtocolError(RetortError):
    """A protocol or recipe breaks a rule, or names something unknown."""


class DataError(RetortError):
    """A data set is missing, empty, unreadable or too small for the protocol."""


class ArtifactError(RetortError):
    """A kept file is missing, damaged, or was made for something else."""


class StudyError(RetortError):
    """A study cannot be opened, resumed or owned."""


class WorkerError(RetortError):
    """A worker died, or its job failed for a reason outside this tree."""


class DivergenceError(RetortError):
    """The training loss stopped being finite; the message names the step."""
