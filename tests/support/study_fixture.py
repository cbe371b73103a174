"""A study fabricated on disk: records, manifests and a real Optuna SQLite study; no training.

Its figures are invented, but every file is written as a real study would write it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from statistics import fmean, median
from typing import Any
from unittest import mock

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState
from scipy.special import log_softmax

from kd import schedules
from kd.models.latency import Latency
from kd.protocol import Protocol
from kd.recipe import Recipe
from kd.seeds import derive_seed
from kd.training.history import EpochMetrics
from reports.draw.drawing import Figure
from reports.draw.figures import draw_figures
from reports.findings import Findings
from reports.read.collect import collect
from reports.read.data import StudyData
from reports.read.trials import TrialData
from reports.write.card import Exported, model_card
from search_spaces.space import Space, load_space
from storage.files.arrays import write_arrays
from storage.files.artifacts import finish, write_json
from storage.files.layout import Layout, StudyLayout
from storage.files.records import (
    Cost,
    Costs,
    Finalist,
    Finalists,
    RunRecord,
    SearchRecord,
    SpaceSource,
    StudySettings,
)
from storage.studies.databases import open_storage
from storage.studies.studies import study_name
from tests.support.promotion_fixture import search_by_promotion
from workers.jobs import TrainJob

CLASSES = 10
VALIDATION = 135
TRAIN = 1213


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to fabricate; `gain` is what distillation adds to the accuracy, in shares of 1."""

    name: str = "digits"
    arms: tuple[str, ...] = ("scheduled", "plain")
    trials: int = 20
    fewer: Mapping[str, int] = field(default_factory=dict)  # arm: trials less than `trials`
    epochs: int = 12
    confirm_epochs: int = 0
    seeds: int = 6
    images: int = 449
    gain: float = 0.013
    class_names: tuple[str, ...] = tuple("0123456789")
    margin: float = 0.5
    cache: str = "all"
    dataset: str = "d0d1d2d3d4d5d6d7"  # its fingerprint
    confirmed: bool = True
    ablated: bool = False
    promotion: bool = False  # searched by promotion, by `trials` trainings' worth of epochs


@dataclass(frozen=True, kw_only=True)
class Fabricated:
    plan: Plan
    layout: Layout
    protocol: Protocol

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def url(self) -> str:
        return self.layout.studies_url

    @property
    def study(self) -> StudyLayout:
        return self.layout.study(self.name)

    def read(self) -> StudyData:
        return collect(self.layout, self.name, self.url)


def fabricate(root: Path, plan: Plan = Plan()) -> Fabricated:
    """Write a study below `root` and return where it is; nothing waits for the disk."""
    with mock.patch("storage.files.artifacts.os.fsync"):
        return _fabricate(root, plan)


def _fabricate(root: Path, plan: Plan) -> Fabricated:
    layout = Layout(root)
    protocol = Protocol(
        dataset="digits",
        image_size=8,
        teachers=("resnet14",),
        teacher_epochs=30,
        students=("resnet8-w0.25",),
        epochs=plan.epochs,
        confirm_epochs=plan.confirm_epochs,
        test_fraction=0.25,
        margin=plan.margin,
        augment="crop=1",
        seed=7,
    )
    made = Fabricated(plan=plan, layout=layout, protocol=protocol)
    write_json(made.study.protocol, protocol.to_json())
    _settings(plan).write(made.study.settings)
    _write_cache(made)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(layout.studies_url)
    finalists = []
    for arm, trials in _write_arms(made, storage).items():
        finalists += _finalists(made, arm, trials)
    finalists += _ladder(finalists) if plan.ablated else []
    storage.remove_session()
    if isinstance(storage, optuna.storages.RDBStorage):
        storage.engine.dispose()
    if plan.confirmed:
        _confirm(made, finalists)
    return made


def _generator(plan: Plan, *parts: int | str) -> np.random.Generator:
    return np.random.default_rng(derive_seed(2026, "fixture", plan.name, *parts))


def _settings(plan: Plan) -> StudySettings:
    return StudySettings(
        arms=list(plan.arms),
        spaces={arm: SpaceSource(source=arm, digest=f"{arm:0<64}") for arm in plan.arms},
        sampler="" if plan.promotion else "tpe",
        pruner="" if plan.promotion else "median",
        lag=4,
        storage="",
        dataset=plan.dataset,
        teachers=("7e7e7e7e7e7e7e7e",),
        shards=("5a5a5a5a5a5a5a5a",),
        cache=plan.cache,
        created="2026-03-01T09:30:00+00:00",
        command=["python", "study.py", "--trials", str(plan.trials), "--name", plan.name],
        versions={"retort": "0.1.0", "python": "3.11.9", "torch": "2.9.0", "optuna": "5.0.0"},
        machine={"processor": "x86-64, 2 cores", "accelerator": "none", "system": "Linux"},
        seconds={
            "data": 1.2,
            "teacher": 74.0,
            "cache": 9.5,
            "search": 512.0,
            "confirmation": 148.0,
            "report": 3.1,
        },
    )


def _write_cache(made: Fabricated) -> None:
    plan, layout = made.plan, made.layout
    settings = _settings(plan)
    parts = {"train": TRAIN, "validation": VALIDATION, "test": plan.images}
    counts = {
        part: [len(each) for each in np.array_split(np.arange(count), CLASSES)]
        for part, count in parts.items()
    }
    info = {"classes": list(plan.class_names), "counts": counts, "official": []}
    info["digests"] = {"rows": plan.dataset, "data": plan.dataset}
    info["inputs"] = {"type": "Images", "shape": [1, 8, 8], "mean": [0.5], "deviation": [0.3]}
    folder = layout.dataset(settings.dataset)
    folder.mkdir(parents=True, exist_ok=True)
    write_arrays(folder / "test.safetensors", {"inputs": _images(plan), "labels": _labels(plan)})
    _write_artifact(folder, "dataset", info)
    teacher = {"accuracy": 0.985, "nll": 0.061, "ece": 0.011, "seconds": 71.3, "epochs": 30}
    _write_artifact(layout.teacher(settings.teachers[0]), "teacher", teacher)
    shards = layout.shards(settings.shards[0])
    _write_artifact(shards, "shards", {"sizes": {}, "taps": {}})
    for k in range(made.protocol.view_count):
        view = shards / f"view-{k:05d}"
        view.mkdir(exist_ok=True)
        (view / "reading.safetensors").write_bytes(bytes(1000))
        finish(view, "shard", {"view": k}, {"taps": []})


def _write_artifact(folder: Path, kind: str, info: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    finish(folder, kind, {}, info)


def _labels(plan: Plan) -> NDArray[np.int64]:
    return _generator(plan, "labels").integers(0, CLASSES, plan.images)


def _images(plan: Plan) -> NDArray[np.uint8]:
    """Grey images, each of one brightness that names its place in the split."""
    brightness = (np.arange(plan.images) % 256).astype(np.uint8)
    return np.broadcast_to(brightness[:, None, None, None], (plan.images, 1, 8, 8)).copy()


def _quality(plan: Plan, recipe: Recipe) -> float:
    """The accuracy that a recipe tends to: best near lr 0.04, better with the teacher."""
    accuracy = 0.952 - 0.02 * np.log10(recipe.lr / 0.04) ** 2
    accuracy -= 0.008 * abs(np.log10(recipe.weight_decay / 8e-4))
    if recipe.distils:
        warmth = np.log(recipe.temperature.initial / 2.5)
        accuracy += plan.gain - 0.004 * abs(recipe.alpha.final - 0.6) - 0.003 * warmth**2
        accuracy += 0.003 if recipe.feature_kind in ("cosine", "similarity") else 0.0
    return float(accuracy)


def _history(
    made: Fabricated, recipe: Recipe, horizon: int, generator: np.random.Generator
) -> list[EpochMetrics]:
    final = _quality(made.plan, recipe) + generator.normal(0, 0.006)
    speed = generator.uniform(0.22, 0.4)
    found = []
    for epoch in range(1, horizon + 1):
        progress = epoch / horizon
        accuracy = final - 0.75 * np.exp(-epoch / (speed * horizon) * 1.6)
        accuracy += generator.normal(0, 0.02 * (1 - progress) + 0.002)
        accuracy = round(float(np.clip(accuracy, 0.1, 1)) * VALIDATION) / VALIDATION
        hard = float(0.15 + 1.9 * np.exp(-3 * progress))
        soft = float(0.3 + 5 * np.exp(-2.5 * progress)) if recipe.soft_kind != "none" else 0.0
        feature = float(0.2 + np.exp(-2 * progress)) if recipe.feature_kind != "none" else 0.0
        last = (epoch - 0.1) / horizon
        alpha = recipe.alpha.value(last)
        found.append(
            EpochMetrics(
                epoch=epoch,
                objective=accuracy,
                accuracy=accuracy,
                nll=float(2.2 * (1 - accuracy) + 0.05),
                ece=float(0.01 + 0.1 * (1 - progress)),
                early_nll=float(2.4 * (1 - accuracy) + 0.06),
                agreement=accuracy - 0.004,
                teacher_kl=float(0.05 + 0.8 * (1 - progress)),
                loss=(1 - alpha) * hard + alpha * soft + recipe.feature_weight * feature,
                hard_loss=hard,
                soft_loss=soft,
                feature_loss=feature,
                temperature=recipe.temperature.value(last),
                alpha=alpha,
                lr=recipe.lr * schedules.warmup_cosine(last, made.protocol.warmup),
                seconds=1.1,
            )
        )
    return found


def _write_arms(
    made: Fabricated, storage: optuna.storages.BaseStorage
) -> dict[str, list[tuple[FrozenTrial, Recipe]]]:
    """Write the trials of all arms, and return them with their recipes."""
    plan = made.plan
    if not plan.promotion:
        return {arm: _write_arm(made, arm, storage) for arm in plan.arms}

    def course(job: TrainJob) -> list[EpochMetrics]:
        generator = _generator(plan, "run", str(job.recipe), job.seed)
        return _history(made, job.recipe, plan.epochs, generator)

    arms = search_by_promotion(
        made.layout, plan.name, made.protocol, storage, plan.arms, plan.trials, course
    )
    found = {name: arm.decisions.learnt() for name, arm in arms.items()}
    known = {name: learnt for name, learnt in found.items() if learnt}
    SearchRecord(arms=known).write(made.study.search)
    return {
        name: [(trial, arm.decisions.recipe(trial.number)) for trial in arm.decisions.trials]
        for name, arm in arms.items()
    }


def _write_arm(
    made: Fabricated, arm: str, storage: optuna.storages.BaseStorage
) -> list[tuple[FrozenTrial, Recipe]]:
    """Write trials and records until enough of them count, one failed and one diverged."""
    space = load_space(arm)
    study = optuna.create_study(
        study_name=study_name(made.name, arm), storage=storage, direction="maximize"
    )
    trials: list[tuple[FrozenTrial, Recipe]] = []
    wanted = made.plan.trials - made.plan.fewer.get(arm, 0)
    while sum(trial.state != TrialState.FAIL for trial, _ in trials) < wanted:
        trials.append(_write_trial(made, arm, space, len(trials), [one for one, _ in trials]))
    study.add_trials([trial for trial, _ in trials])
    return trials


def _suggest(plan: Plan, arm: str, space: Space, number: int) -> tuple[optuna.trial.Trial, Recipe]:
    sampler = optuna.samplers.RandomSampler(seed=derive_seed(5, plan.name, arm, number) % 2**32)
    study = optuna.create_study(sampler=sampler)
    if number < len(space.enqueued):
        study.enqueue_trial(dict(list(space.enqueued.values())[number]))
    trial = study.ask()
    return trial, space.suggest(trial)


def _write_trial(
    made: Fabricated, arm: str, space: Space, number: int, before: list[FrozenTrial]
) -> tuple[FrozenTrial, Recipe]:
    asked, recipe = _suggest(made.plan, arm, space, number)
    generator = _generator(made.plan, arm, number)
    history = _history(made, recipe, made.plan.epochs, generator)
    state, diverged, auditor = TrialState.COMPLETE, False, number % 6 == 0
    attributes: dict[str, Any] = {"auditor": auditor}
    if arm != "plain" and number == 7:
        state, history = TrialState.FAIL, history[:3]
        attributes["reason"] = "the worker died 3 times: <Signals.SIGKILL: 9> & gone"
    elif arm != "plain" and number == 9:
        diverged, history = True, history[:1]
    elif auditor:
        kept = _until_cut(history, before)
        attributes |= {"cut_epoch": len(kept)} if len(kept) < len(history) else {}
    else:
        kept = _until_cut(history, before)
        state = TrialState.PRUNED if len(kept) < len(history) else state
        history = kept
    attributes["diverged"] = diverged
    trial = optuna.trial.create_trial(
        state=state,
        value=None if state == TrialState.FAIL else 0.0 if diverged else history[-1].accuracy,
        params=asked.params,
        distributions=asked.distributions,
        intermediate_values={epoch.epoch: epoch.accuracy for epoch in history},
        user_attrs=attributes,
    )
    trial.number = number
    outcome = {TrialState.FAIL: "failed", TrialState.PRUNED: "pruned"}.get(state, "complete")
    record = RunRecord(
        recipe=recipe,
        seed=derive_seed(7, "trial", arm, number),
        horizon=made.plan.epochs,
        outcome="diverged" if diverged else outcome,
        reason=attributes.get("reason", ""),
        history=history,
        seconds=1.1 * len(history),
    )
    record.write(made.study.trial(arm, number).result)
    return trial, recipe


def _until_cut(history: list[EpochMetrics], before: list[FrozenTrial]) -> list[EpochMetrics]:
    """Cut where the run is below the median of at least five before it, from epoch 4 on."""
    for epoch in history[3:-1]:
        others = [
            one.intermediate_values[epoch.epoch]
            for one in before
            if epoch.epoch in one.intermediate_values and one.state != TrialState.FAIL
        ]
        if len(others) >= 5 and epoch.accuracy < median(others):
            return history[: epoch.epoch]
    return history


def _finalists(
    made: Fabricated, arm: str, trials: list[tuple[FrozenTrial, Recipe]]
) -> list[Finalist]:
    whole = [
        (trial, recipe)
        for trial, recipe in trials
        if trial.state == TrialState.COMPLETE and not trial.user_attrs["diverged"]
    ]
    titles = list(load_space(arm).enqueued)
    chosen = [(*trials[place], title, "default") for place, title in enumerate(titles)]
    best = max(whole, key=lambda item: _quality(made.plan, item[1]))
    chosen.append((*best, "tuned", "tuned"))
    found = []
    for trial, recipe, title, role in chosen:
        generator = _generator(made.plan, "selection", arm, trial.number)
        scores = _quality(made.plan, recipe) + generator.normal(0, 0.004, size=3)
        found.append(
            Finalist(
                name=f"{arm}-{trial.number:05d}",
                title=title,
                arm=arm,
                role=role,
                recipe=recipe,
                trial=trial.number,
                searched=_searched(made.plan, trial, recipe, whole),
                selection=[float(score) for score in scores] if role == "tuned" else [],
            )
        )
    _select(made, found[-1])
    return found


def _searched(
    plan: Plan, trial: FrozenTrial, recipe: Recipe, whole: list[tuple[FrozenTrial, Recipe]]
) -> float:
    """The score in the search: by promotion the mean of the recipe's runs at the horizon."""
    values = [one.value or 0.0 for one, other in whole if other == recipe]
    return fmean(values) if plan.promotion and values else trial.value or 0.0


def _ladder(finalists: list[Finalist]) -> list[Finalist]:
    """The first winner without its feature loss, and with a worse optimizer."""
    winner = next(one for one in finalists if one.role == "tuned")
    recipes = {
        "without feature loss": replace(
            winner.recipe, feature_kind="none", feature_weight=0.0, feature_taps=()
        ),
        "with default optimizer": replace(winner.recipe, lr=0.3, weight_decay=2e-3),
    }
    return [
        replace(
            winner,
            name=f"{winner.name}-{title.replace(' ', '-')}",
            title=title,
            role="ablation",
            recipe=recipe,
            selection=[],
        )
        for title, recipe in recipes.items()
    ]


def _select(made: Fabricated, winner: Finalist) -> None:
    for replicate in range(3):
        generator = _generator(made.plan, "selected", winner.arm, replicate)
        history = _history(made, winner.recipe, made.protocol.confirm_horizon, generator)
        RunRecord(
            recipe=winner.recipe,
            seed=derive_seed(7, "selection", replicate),
            horizon=made.protocol.confirm_horizon,
            outcome="complete",
            history=history,
            seconds=13.2,
        ).write(made.study.selection(winner.arm, winner.trial, replicate).result)


def _confirm(made: Fabricated, finalists: list[Finalist]) -> None:
    plan = made.plan
    Finalists(seeds=plan.seeds, finalists=finalists).write(made.study.finalists)
    _costs().write(made.study.costs)
    generator = _generator(plan, "images")
    ease = generator.normal(0, 1, plan.images)
    labels = _labels(plan)
    logits = _logits(0.982, ease, labels, _generator(plan, "teacher"))
    test = made.study.teacher_test()
    test.folder.mkdir(parents=True, exist_ok=True)
    write_arrays(test.predictions, {"logits": logits, "labels": labels})
    scores = _scores(logits, labels)
    write_json(test.result, scores)
    openings = [{"time": "2026-03-01T09:55:00+00:00", "purpose": "the teacher"}]
    for finalist in finalists:
        for replicate in range(plan.seeds):
            run = made.study.confirmation(finalist.name, replicate)
            if run.result.exists():
                continue  # a default that is also the winner has one set of runs
            seeded = _generator(plan, "confirmation", finalist.name, replicate)
            accuracy = _quality(plan, finalist.recipe) + seeded.normal(0, 0.003)
            taste = _generator(plan, "taste", finalist.name).normal(0, 0.35, plan.images)
            logits = _logits(accuracy, ease + taste, labels, seeded)
            run.folder.mkdir(parents=True)
            write_arrays(run.predictions, {"logits": logits, "labels": labels})
            RunRecord(
                recipe=finalist.recipe,
                seed=derive_seed(7, "confirmation", replicate),
                horizon=made.protocol.confirm_horizon,
                outcome="complete",
                history=_history(made, finalist.recipe, made.protocol.confirm_horizon, seeded),
                seconds=13.2,
                test={"objective": float((logits.argmax(1) == labels).mean())}
                | _scores(logits, labels),
            ).write(run.result)
            purpose = f"{finalist.arm} {finalist.title}, seed {replicate + 1}"
            openings.append({"time": "2026-03-01T09:56:00+00:00", "purpose": purpose})
    write_json(made.study.seal, {"study": plan.name, "openings": openings})


def _logits(
    accuracy: float,
    ease: NDArray[np.float64],
    labels: NDArray[np.int64],
    generator: np.random.Generator,
) -> NDArray[np.float32]:
    """Logits that are right on about `accuracy` of the images, mostly on the same easy ones."""
    score = ease + generator.normal(0, 0.5, len(ease))
    margin = score - np.quantile(score, 1 - min(accuracy, 0.999))
    logits = generator.normal(-3, 0.5, (len(ease), CLASSES))
    rows = np.arange(len(ease))
    logits[rows, (labels + 1 + generator.integers(0, 3, len(ease))) % CLASSES] = 0.0
    logits[rows, labels] = 2.5 * margin
    return logits.astype(np.float32)


def _scores(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float]:
    log_p = log_softmax(logits.astype(float), axis=1)
    confidence, right = np.exp(log_p.max(1)), log_p.argmax(1) == labels
    bins = np.clip(np.ceil(confidence * 15).astype(int), 1, 15) - 1
    gaps = np.bincount(bins, right - confidence, minlength=15)
    return {
        "accuracy": float(right.mean()),
        "nll": float(-log_p[np.arange(len(labels)), labels].mean()),
        "ece": float(np.abs(gaps).sum() / len(labels)),
    }


def _costs() -> Costs:
    def cost(model: str, size: int, scale: float) -> Cost:
        latency = [
            Latency(batch_size=1, median_ms=0.6 * scale, p95_ms=0.9 * scale, repeats=40),
            Latency(batch_size=256, median_ms=8.0 * scale, p95_ms=9.1 * scale, repeats=40),
        ]
        return Cost(
            model=model, parameters=size, macs=60 * size, bytes=4 * size + 2048, latency=latency
        )

    models = {
        "teacher": cost("resnet14", 174_970, 5.1),
        "distilled": cost("resnet8-w0.25", 5_242, 1.0),
        "plain": cost("resnet8-w0.25", 5_242, 1.012),
    }
    return Costs(device="cpu", threads=1, models=models)


def completed(number: int, value: float, **fields: Any) -> TrialData:
    """A trial of one epoch, whose fields are given by hand."""
    made: dict[str, Any] = {
        "arm": "scheduled",
        "state": "COMPLETE",
        "parameters": {},
        "distributions": {},
        "values": {1: value},
        "diverged": False,
        "auditor": False,
        "cut_epoch": None,
        "reason": "",
        "started": None,
        "seconds": None,
        "record": None,
    }
    return TrialData(number=number, value=value, **{**made, **fields})


def card_of(findings: Findings, inputs: Mapping[str, Any]) -> str:
    """Return the model card of the first run of the tuned scheduled recipe."""
    tuned = findings.data.tuned("scheduled")
    config = {"model": "resnet8", "classes": 10, "channels": 1, "inputs": inputs}
    exported = Exported(
        finalist=tuned, run=tuned.tested[0], config=config, own=(), images=1, onnx_differences={}
    )
    return model_card(findings, exported)


def drawn_figures(findings: Findings) -> dict[str, Figure]:
    """Return every figure of the page by its key, in its order."""
    figures = chain.from_iterable(draw_figures(findings).values())
    return {figure.key: figure for figure in figures}


def read_report(made: Fabricated) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(made.study.report_json.read_text(encoding="utf-8"))
    return report


def with_teacher(data: StudyData, **changes: Any) -> StudyData:
    """Return a study with one teacher whose fields are changed."""
    return replace(data, teachers=(replace(data.teacher, **changes),))
