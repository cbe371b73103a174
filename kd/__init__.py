"""Knowledge distillation: what is computed. Knows nothing of Optuna, disks or processes."""

VERSION = "0.1.0"  # of Retort; every file that it writes carries it
