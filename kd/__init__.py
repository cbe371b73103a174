"""Knowledge distillation itself: data, models, losses, training. No Optuna, files or processes."""
