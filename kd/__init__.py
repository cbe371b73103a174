"""Knowledge distillation itself: data, models, losses, training. No Optuna, files or processes."""

VERSION = "0.1.0"  # of Retort; every file that it writes carries it
