"""Run hyperparameter studies for knowledge distillation: python study.py --trials 20"""

from conductor.command_line.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
