"""The conductor decides: the only Optuna client, and the only place that sees every room."""
