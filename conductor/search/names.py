"""Names that the command line offers; kept apart so that `--help` needs no Optuna."""

SAMPLERS = ("tpe", "random", "gp")
PRUNERS = ("median", "quartile", "halving", "hyperband", "none")
CACHE_BUDGET = "20GB"
BUILT_IN_ARMS = ("scheduled", "constant", "plain")

# Fresh seeds of each finalist by name. At a deviation of 0.15 points between seeds, differences of
# about 0.3, 0.2 and 0.1 points can be shown with them, apart from what the test images add.
EVIDENCE = {"quick": 6, "standard": 10, "strong": 29}
