"""Collecting: read a study's files and its Optuna studies into one `StudyData`."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial
from scipy.special import log_softmax

from kd.errors import ArtifactError, StudyError
from kd.protocol import Protocol
from kd.training.scoring import scores
from reports.read.artifacts import info_of, read_predictions
from reports.read.data import CachedViews, ConfirmationRun, FinalistData, StudyData
from reports.read.importances import find_importances
from reports.read.learnt import read_learnt, with_learnt
from reports.read.predictions import TeacherPredictions
from reports.read.teachers import read_teachers
from reports.read.trials import ArmData, TrialData
from storage.files.arrays import made_again, read_arrays
from storage.files.artifacts import is_finished, read_manifest, read_record
from storage.files.layout import (
    DEFAULT_ROOT,
    Layout,
    RunLayout,
    StudyLayout,
    view_folder,
    whole_path,
)
from storage.files.records import Costs, Finalists, RunRecord, StudySettings
from storage.files.seal import OtherStudies, SplitIdentity, other_studies, read_openers, read_seal
from storage.studies.databases import close_storage, open_storage
from storage.studies.studies import load_study, study_name
from storage.studies.trials import (
    AUDITOR,
    CONTINUES,
    EARLY,
    ENDED,
    INFEASIBLE,
    REPEATS,
    RUN,
    UNTIL,
    check_trial,
)
from storage.studies.urls import storage_file


def collect(layout: Layout, name: str, storage_url: str) -> StudyData:
    """Read the study `name`, as far as it has come.

    Raises ArtifactError when its protocol or settings are missing or anything is damaged, and
    StudyError when the storage cannot be read.
    """
    study = layout.study(name)
    protocol = read_record(study.protocol, Protocol)
    settings = StudySettings.read(study.settings)
    missing: list[str] = []
    arms = _read_arms(study, settings, storage_url, missing)
    teachers = read_teachers(layout, study, protocol, settings, missing)
    seeds, finalists, test = _read_finalists(study, protocol, missing)
    dataset = info_of(layout.dataset(settings.dataset), "dataset", "the data set", missing)
    seal = read_seal(study.seal)
    return StudyData(
        name=name,
        root=_root(layout),
        protocol=protocol,
        settings=settings,
        arms=arms,
        selection=_read_selection(study, settings),
        seeds=seeds,
        finalists=finalists,
        labels=test.labels,
        teachers=teachers,
        costs=_read_costs(study, missing),
        seal=seal.openings,
        choices=seal.choices,
        others=_read_others(layout.dataset(settings.dataset), protocol.dataset, seal.study),
        example=_example(dataset),
        classes=tuple(map(str, dataset.get("classes", ()))),
        class_images=_class_images(dataset),
        official=tuple(map(str, dataset.get("official", ()))),
        cached=_read_cache(layout, settings, protocol, missing),
        missing=tuple(missing),
    )


def _read_others(folder: Path, dataset: str, study: str) -> OtherStudies:
    """Read which other studies opened this test split; `folder` of the data set may be missing."""
    openers = read_openers(folder)
    splits = [one.split for one in openers if one.study == study]
    if is_finished(folder):
        splits.append(SplitIdentity.of(read_manifest(folder, "dataset"), dataset))
    return other_studies(openers, splits[-1], study) if splits else OtherStudies(study=study)


def _root(layout: Layout) -> str:
    """The root as it is named in the report's commands, which are to work from any folder."""
    return DEFAULT_ROOT if str(layout.root) == DEFAULT_ROOT else str(whole_path(layout.root))


def _example(dataset: Mapping[str, Any]) -> str:
    return "example" if dataset.get("inputs", {}).get("type") == "Arrays" else "image"


def _class_images(dataset: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the images of each class in each part, as the manifest counts them."""
    counts: Mapping[str, Any] = dataset.get("counts", {})
    return {part: tuple(map(int, count)) for part, count in counts.items()}


def _read_cache(
    layout: Layout, settings: StudySettings, protocol: Protocol, missing: list[str]
) -> CachedViews | None:
    """Count the study's own views: other studies of the same teacher may have added more."""
    if settings.cache == "none":
        return None
    folders = [layout.shards(shards) for shards in settings.shards]
    if not folders or not all(map(is_finished, folders)):
        missing.append("the teacher cache")
        return None
    views = [view_folder(folder, k) for folder, k in product(folders, range(protocol.view_count))]
    there = [view for view in views if is_finished(view)]
    files = [path for view in there for path in view.iterdir()]
    return CachedViews(views=len(there), bytes=sum(path.stat().st_size for path in files))


def _read_costs(study: StudyLayout, missing: list[str]) -> Costs | None:
    if study.costs.is_file():
        return Costs.read(study.costs)
    missing.append("costs (parameters, MACs, size, latency)")
    return None


def _read_arms(
    study: StudyLayout, settings: StudySettings, storage_url: str, missing: list[str]
) -> tuple[ArmData, ...]:
    path = storage_file(storage_url)
    if path and not path.is_file():  # opening it would make an empty one
        raise StudyError(
            f"{path} is missing; run the study again, or name another --root or --storage"
        )
    storage = open_storage(storage_url)
    try:
        arms = tuple(_read_arm(study, settings, arm, storage, missing) for arm in settings.arms)
    finally:
        close_storage(storage)
    if settings.sampler:
        return arms
    record = read_learnt(study, missing)
    return tuple(with_learnt(arm, record) for arm in arms)


def _read_arm(
    study: StudyLayout,
    settings: StudySettings,
    arm: str,
    storage: BaseStorage,
    missing: list[str],
) -> ArmData:
    """Read an arm; its importances are PED-ANOVA's, none yet of a search by promotion."""
    try:
        opened = load_study(storage, study_name(study.name, arm))
    except KeyError:
        _check_complete(study, arm, [])
        missing.append(f"every trial of the arm {arm}")
        return ArmData(name=arm, trials=(), importances={}, importances_note="No trial has run.")
    stored = sorted(opened.get_trials(deepcopy=False), key=lambda trial: trial.number)
    _check_complete(study, arm, stored)
    for trial in stored:
        check_trial(opened.study_name, trial, strict=False)
    trials = tuple(_read_trial(study, arm, trial, stored) for trial in stored)
    lost = sum(trial.state != "RUNNING" and trial.record is None for trial in trials)
    if lost:
        missing.append(f"the records (recipe, every epoch) of {lost} trials of {arm}")
    importances, note = (
        find_importances(opened.study_name, storage, stored) if settings.sampler else ({}, "")
    )
    return ArmData(name=arm, trials=trials, importances=importances, importances_note=note)


def _check_complete(study: StudyLayout, arm: str, trials: list[FrozenTrial]) -> None:
    """Raises StudyError when a trial has gone from the storage."""
    results = study.trial_results(arm)
    kept = [int(path.parent.name) for path in results if path.parent.name.isdecimal()]
    numbers = [trial.number for trial in trials]
    if numbers != list(range(len(trials))) or max(kept, default=-1) >= len(trials):
        raise StudyError(
            f"the storage lacks trials of {study_name(study.name, arm)} that have ended: it is "
            "damaged, or not this study's; restore it, or name another --storage"
        )


def _read_trial(
    study: StudyLayout, arm: str, trial: FrozenTrial, stored: Sequence[FrozenTrial]
) -> TrialData:
    """Make a trial, of all that are stored."""
    attributes = trial.user_attrs
    before = attributes.get(CONTINUES)
    return TrialData(
        arm=arm,
        number=trial.number,
        state="INFEASIBLE" if INFEASIBLE in attributes else trial.state.name,
        value=trial.value,
        parameters=dict(trial.params),
        distributions=dict(trial.distributions),
        values=dict(sorted(trial.intermediate_values.items())),
        diverged=bool(attributes.get("diverged", False)),
        auditor=bool(attributes.get(AUDITOR, False)),
        cut_epoch=attributes.get("cut_epoch"),
        reason=str(attributes.get(INFEASIBLE, attributes.get("reason", ""))),
        started=trial.datetime_start,
        seconds=trial.duration.total_seconds() if trial.duration else None,
        record=_read_record(study.trial(arm, trial.number).result, trial),
        run=attributes.get(RUN),
        until=attributes.get(UNTIL),
        continues=before,
        begun=0 if before is None else stored[before].user_attrs[UNTIL],
        repeats=attributes.get(REPEATS),
        early={int(rung): nll for rung, nll in attributes.get(EARLY, {}).items()},
    )


def _read_record(path: Path, trial: FrozenTrial) -> RunRecord | None:
    """Return a trial's record, if it is here. Raises ArtifactError for that of another trial."""
    if not path.is_file():
        return None
    try:
        record = RunRecord.read(path)
    except ArtifactError as error:
        reason = str(error).partition("; restore it")[0]
        raise ArtifactError(f"{reason}; restore it, or delete it to do without it") from None
    ended = trial.user_attrs.get(ENDED, "") if trial.state.is_finished() else ""
    if ended and record.digest != ended:
        raise ArtifactError(f"{path} is of another trial than the storage's; restore it")
    return record


def _read_selection(study: StudyLayout, settings: StudySettings) -> tuple[RunRecord, ...]:
    paths = (path for arm in settings.arms for path in study.selection_results(arm))
    return tuple(map(RunRecord.read, paths))


def _read_finalists(
    study: StudyLayout, protocol: Protocol, missing: list[str]
) -> tuple[int, tuple[FinalistData, ...], "TeacherPredictions"]:
    if not study.finalists.is_file():
        missing.append("confirmation: no finalist has been chosen")
        return 0, (), TeacherPredictions(study, protocol, [])
    chosen = Finalists.read(study.finalists)
    paths = [study.teacher_test(role).predictions for role in protocol.teacher_roles]
    known = all(path.is_file() for path in paths)
    test = TeacherPredictions(study, protocol, paths if known else [])
    finalists = []
    for finalist in chosen.finalists:
        layouts = [study.confirmation(finalist.name, place) for place in range(chosen.seeds)]
        runs = [
            _read_confirmation(run, replicate, test)
            for replicate, run in enumerate(layouts)
            if run.result.is_file()
        ]
        runs = [run for run in runs if run.correct is not None or run.record.test is None]
        finalists.append(FinalistData(finalist=finalist, runs=tuple(runs)))
        if len(runs) < chosen.seeds:
            label = finalists[-1].label
            missing.append(f"{chosen.seeds - len(runs)} of {chosen.seeds} runs of {label}")
    return chosen.seeds, tuple(finalists), test


def _read_confirmation(run: RunLayout, replicate: int, test: TeacherPredictions) -> ConfirmationRun:
    record = RunRecord.read(run.result)
    if record.test is None or not run.predictions.is_file():
        return ConfirmationRun(replicate=replicate, record=record)
    logits, labels = read_predictions(run.predictions)
    test.check(run.predictions, labels)
    predicted = logits.argmax(1)
    _check_run(run, record.test["accuracy"], float(np.mean(predicted == labels)))
    log_p = log_softmax(logits.astype(float), axis=1)
    agreement, teacher_kl = test.fidelity(record.recipe, log_p)
    return ConfirmationRun(
        replicate=replicate,
        record=record,
        predicted=predicted,
        scores=scores(test.metric, logits, labels),
        correct=predicted == labels,
        confidence=np.exp(log_p.max(1)),
        agreement=agreement,
        teacher_kl=teacher_kl,
    )


def _check_run(run: RunLayout, recorded: float, accuracy: float) -> None:
    """Raises ArtifactError for logits of another run than the record's, or damaged weights."""
    if abs(recorded - accuracy) > 1e-6:  # less than one image in a million
        raise ArtifactError(
            f"{run.predictions} is of another run than {run.result.name} beside it; "
            f"{made_again(run.predictions)}"
        )
    if run.weights.is_file():
        read_arrays(run.weights)
