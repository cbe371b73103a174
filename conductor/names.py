"""Names that the command line offers; kept apart so that `--help` needs no Optuna."""

SAMPLERS = ("tpe", "random", "gp")
PRUNERS = ("median", "quartile", "halving", "hyperband", "none")
BUILT_IN_ARMS = ("scheduled", "constant", "plain")
