"""Optuna studies in SQLite, PostgreSQL, MySQL or a journal file."""
