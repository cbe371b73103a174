"""What is kept: paths, artifacts, teacher cache, checkpoints, Optuna studies."""
