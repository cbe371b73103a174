"""Knowledge distillation: what is computed. Knows nothing of Optuna, disks or processes."""
