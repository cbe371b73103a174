"""One arm's search: decisions in memory, written through to Optuna."""
