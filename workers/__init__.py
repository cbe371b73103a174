"""Workers run one job at a time and send events back; they do not use Optuna."""
