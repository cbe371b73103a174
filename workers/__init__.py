"""Workers run one job at a time and stream events; they know nothing of Optuna."""
