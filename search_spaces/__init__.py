"""Search spaces propose recipes; each file that defines `suggest` is one, by its name."""

from kd.registry import Kind

SPACES = Kind("arm", __name__, defines="suggest")
