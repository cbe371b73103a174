"""Optuna studies in databases and journals."""
