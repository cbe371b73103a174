"""The study that an engineer would write in an afternoon: Optuna, and the usual PyTorch loop.

    python -m tests.benchmarks.naive ROOT STUDY TRIALS

PIL images, torchvision's transforms, a DataLoader, the teacher asked for every batch; one process
with two threads, trial after trial, TPE and the median pruner. Models, split, horizon, optimizer
and learning rate's schedule are those of the study STUDY below ROOT. It prints, as JSON, the
seconds of the teacher and of the search, and the best accuracy of each arm.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from kd.models.build import build
from kd.protocol import Protocol
from kd.schedules import warmup_cosine
from storage.files.artifacts import read_record
from storage.files.datasets import open_part
from storage.files.layout import Layout
from storage.files.records import StudySettings
from tests.benchmarks.pictures import Pictures

THREADS = 2
CLASSES = 10
Recipe = Callable[[float], tuple[float, float]]  # progress: temperature and alpha


class Loop:
    """Data, teacher and the training loop."""

    def __init__(self, root: Path, study: str) -> None:
        paths = Layout(root).study(study)
        self.protocol = read_record(paths.protocol, Protocol)
        folder = Layout(root).dataset(StudySettings.read(paths.settings).dataset)
        self.parts = {part: open_part(folder, part) for part in ("train", "validation")}
        self.train, self.validation = min(self._loaders(0), self._loaders(2), key=_seconds)

    def _loaders(self, workers: int) -> tuple[DataLoader[tuple[Tensor, int]], ...]:
        return self._loader("train", workers), self._loader("validation", workers)

    def _loader(self, part: str, workers: int) -> DataLoader[tuple[Tensor, int]]:
        data, protocol = self.parts[part], self.protocol
        return DataLoader(
            Pictures(data, protocol.augment if part == "train" else "none"),
            batch_size=protocol.batch_size if part == "train" else 256,
            shuffle=part == "train",
            drop_last=part == "train",
            num_workers=workers,
            persistent_workers=workers > 0,
        )

    def model(self, name: str, seed: int) -> nn.Module:
        """Build a plain module, since `Pictures` are normalised."""
        inputs = self.parts["train"].inputs
        return build(name, classes=CLASSES, inputs=inputs, stem="cifar", seed=seed).body

    def fit(
        self,
        model: nn.Module,
        epochs: int,
        lr: float,
        decay: float,
        teacher: nn.Module | None,
        recipe: Recipe,
        after: Callable[[int, float], None],
        smoothing: float = 0.0,
    ) -> float:
        """Train; call `after(epoch, accuracy)` after each epoch, and return the last accuracy."""
        optimizer = torch.optim.SGD(
            model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=decay
        )
        total, step, accuracy = epochs * len(self.train), 0, 0.0
        for epoch in range(epochs):
            model.train()
            for images, labels in self.train:
                progress = step / total
                optimizer.param_groups[0]["lr"] = lr * warmup_cosine(progress, self.protocol.warmup)
                logits = model(images)
                loss = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
                if teacher is not None:
                    temperature, alpha = recipe(progress)
                    with torch.no_grad():
                        taught = teacher(images)
                    soft = functional.kl_div(
                        functional.log_softmax(logits / temperature, dim=1),
                        functional.log_softmax(taught / temperature, dim=1),
                        reduction="batchmean",
                        log_target=True,
                    )
                    loss = (1 - alpha) * loss + alpha * temperature**2 * soft
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
            accuracy = self.accuracy(model)
            after(epoch, accuracy)
        return accuracy

    @torch.no_grad()
    def accuracy(self, model: nn.Module) -> float:
        model.eval()
        right = sum(
            int((model(images).argmax(1) == labels).sum()) for images, labels in self.validation
        )
        return right / len(self.parts["validation"])

    def teach(self) -> nn.Module:
        protocol = self.protocol
        teacher = self.model(protocol.teacher, 0)
        lr, decay = protocol.teacher_lr, protocol.teacher_weight_decay
        self.fit(teacher, protocol.teacher_epochs, lr, decay, None, _plain, lambda *_: None)
        return teacher.eval().requires_grad_(False)

    def search(self, teacher: nn.Module | None, trials: int) -> float:
        """Search one arm, with or without a teacher; return the best accuracy of a whole trial."""

        def objective(trial: optuna.Trial) -> float:
            lr = trial.suggest_float("lr", 0.01, 0.3, log=True)
            decay = trial.suggest_float("weight_decay", 1e-4, 2e-3, log=True)
            smoothing = trial.suggest_float("label_smoothing", 0, 0.1)
            recipe = _plain if teacher is None else _suggest(trial)

            def after(epoch: int, accuracy: float) -> None:
                trial.report(accuracy, epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned

            student = self.model(self.protocol.student, trial.number)
            epochs = self.protocol.epochs
            return self.fit(student, epochs, lr, decay, teacher, recipe, after, smoothing)

        warmup = self.protocol.epochs // 4
        study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=0),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=warmup),
        )
        study.optimize(objective, n_trials=trials)
        return study.best_value


def _suggest(trial: optuna.Trial) -> Recipe:
    temperatures = [trial.suggest_float(f"temperature_{end}", 1, 10, log=True) for end in "if"]
    alphas = [trial.suggest_float(f"alpha_{end}", 0, 1) for end in "if"]

    def linear(progress: float) -> tuple[float, float]:
        ends = (temperatures, alphas)
        return tuple(first + (last - first) * progress for first, last in ends)  # type: ignore

    return linear


def _plain(progress: float) -> tuple[float, float]:
    return 1.0, 0.0


def _seconds(loaders: tuple[DataLoader[tuple[Tensor, int]], ...]) -> float:
    """Time an epoch, after one that starts the loaders' processes."""
    list(loaders[0])
    started = time.perf_counter()
    list(loaders[0])
    return time.perf_counter() - started


def main(root: str, study: str, trials: str) -> None:
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    loop = Loop(Path(root), study)
    times = [time.perf_counter()]
    teacher = loop.teach()
    times.append(time.perf_counter())
    best = {"scheduled": loop.search(teacher, int(trials)), "plain": loop.search(None, int(trials))}
    times.append(time.perf_counter())
    found = {"teacher": times[1] - times[0], "search": times[2] - times[1], "best": best}
    print(json.dumps({**found, "loaders": loop.train.num_workers}))


if __name__ == "__main__":
    main(*sys.argv[1:])
