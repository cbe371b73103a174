"""Search spaces propose recipes; each file is one space, and `space.py` loads them."""

BUILT_IN_ARMS = ("scheduled", "constant", "plain")  # here, so that help needs no Optuna
