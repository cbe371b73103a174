"""Run hyperparameter studies for knowledge distillation: python study.py --trials 20

From Python: `import study; report = study.run(trials=20)`.
"""

from conductor.command_line.calling import run
from conductor.command_line.cli import main

__all__ = ["main", "run"]

if __name__ == "__main__":
    raise SystemExit(main())
