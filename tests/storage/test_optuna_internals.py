"""What is used of Optuna beside its promises is there as expected, and used from one module."""

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.pruners import HyperbandPruner
from optuna.samplers import TPESampler
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.trial import TrialState, create_trial

from storage.studies import optuna_internals as internals

ROOT = Path(__file__).parents[2]
ROOMS = ("kd", "storage", "search_spaces", "workers", "conductor", "reports")
HERE = ROOT / "storage" / "studies" / "optuna_internals.py"
HANDLES = {"_storage", "_study_id", "_trial_id", "_backend", "_studies", "_get_trials"}

SIGNATURES: list[tuple[Callable[..., Any], str]] = [
    (RDBStorage._create_new_trial, "self study_id template_trial"),
    (RDBStorage._get_best_trial_id, "self study_id direction"),
    (RDBStorage._get_prepared_new_trial, "self study_id template_trial session"),
    (RDBStorage._get_trials, "self study_id states included_trial_ids trial_id_greater_than"),
    (RDBStorage._set_trial_attr_without_commit, "self session model_cls trial_id key value"),
    (
        RDBStorage._set_trial_param,
        "self trial_id param_name param_value_internal distribution previous_distribution",
    ),
    (RDBStorage._set_trial_value_without_commit, "self session trial objective value"),
    (RDBStorage.check_trial_is_updatable, "self trial_id trial_state"),
    (TPESampler._sample, "self study trial search_space"),
    (TPESampler._sample_relative, "self study trial search_space"),
    (TPESampler._compare, "samples acquisition_func_vals"),
    (TPESampler._compute_acquisition_func, "self samples mpe_below mpe_above"),
    (optuna.Study._get_trials, "self deepcopy states use_cache"),
    (internals.database_session, "scoped_session ignore_integrity_error"),
    (internals.split_trials, "study trials n_below"),
    (internals.default_gamma, "x"),
    (internals.SearchSpaceGroup.add_distributions, "self distributions"),
]


def parameters(function: Callable[..., Any]) -> str:
    return " ".join(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    ("function", "expected"),
    SIGNATURES,
    ids=lambda value: getattr(value, "__qualname__", "") if callable(value) else "",
)
def test_private_functions_take_what_they_are_given(function, expected):
    assert parameters(function) == expected


def test_all_that_is_inherited_is_there():
    made = {RDBStorage: RDBStorage("sqlite://"), TPESampler: TPESampler()}
    for kind, names in internals.INHERITED.items():
        assert [name for name in names if not hasattr(made[kind], name)] == []
    assert hasattr(made[TPESampler]._rng, "rng")


@pytest.mark.parametrize("url", ["sqlite://", None])
def test_handles_lead_to_the_trials_of_a_study(url):
    study = optuna.create_study(storage=url, pruner=HyperbandPruner())
    study.add_trial(create_trial(state=TrialState.COMPLETE, value=0.5))
    storage, (trial,) = internals.storage_of(study), study.trials
    assert storage.get_study_name_from_id(internals.study_id_of(study)) == study.study_name
    assert storage.get_trial(internals.trial_id_of(trial)) == trial
    assert internals.trials_of(study, (TrialState.COMPLETE,)) == [trial]
    assert isinstance(internals.database_behind(storage), RDBStorage) == (url is not None)
    assert isinstance(storage, _CachedStorage) == (url is not None)
    handle = internals.StoredTrial(study, internals.trial_id_of(trial))
    assert (handle.storage, handle.study) == (storage, study)
    assert handle.storage.get_trial(internals.trial_id_of(handle)) == trial


def test_storages_in_memory_show_their_own_lists():
    storage = InMemoryStorage()
    study = optuna.create_study(storage=storage)
    trial = study.ask({"x": FloatDistribution(0, 1)})
    study_id = internals.study_id_of(study)
    (stored,) = internals.trials_in_memory(storage, study_id)
    assert stored.params == trial.params
    known = internals.distributions_in_memory(storage, study_id)
    assert known == {"x": FloatDistribution(0, 1)}
    known["y"] = FloatDistribution(0, 1)
    assert "y" in internals.distributions_in_memory(storage, study_id)


@pytest.mark.parametrize("table", ["TrialModel", "TrialParamModel", "TrialUserAttributeModel"])
def test_tables_have_the_columns_that_are_written(table):
    written = {
        "TrialModel": {"trial_id", "study_id", "number", "state", "datetime_complete"},
        "TrialParamModel": {"trial_id", "param_name", "param_value", "distribution_json"},
        "TrialUserAttributeModel": {"trial_id", "key", "value_json"},
    }
    columns = getattr(internals.models, table).__table__.columns
    assert written[table] <= {column.name for column in columns}


def test_no_other_module_uses_what_optuna_keeps_to_itself():
    """Imports, and attributes of another object than `self` with the names that Optuna gives."""
    wrong = []
    for path in [path for room in ROOMS for path in (ROOT / room).rglob("*.py") if path != HERE]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("optuna"):
                parts = [*str(node.module).split("."), *(alias.name for alias in node.names)]
                names = [name for name in parts if name.startswith("_")]
            elif isinstance(node, ast.Attribute) and node.attr in HANDLES:
                ours = isinstance(node.value, ast.Name) and node.value.id == "self"
                names = [] if ours else [node.attr]
            wrong += [f"{path}:{node.lineno}: {name}" for name in names]
    assert wrong == []


def test_all_that_our_classes_take_from_a_class_of_optuna_is_listed():
    from conductor.search.mirror import LaggedStorage
    from conductor.search.samplers.tpe import IncrementalTPESampler
    from storage.studies.retrying import RetryingStorage

    for ours in (RetryingStorage, IncrementalTPESampler, LaggedStorage):
        theirs = [one for one in ours.__mro__ if one.__module__.startswith("optuna.")]
        known = {name for one in theirs for name in internals.INHERITED.get(one, ())}
        for one in ours.__mro__:
            if one in theirs or one is object:
                continue
            tree = ast.parse(inspect.getsource(one))
            used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            used |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            private = {name for name in used if name.startswith("_") and name[1] != "_"}
            inherited = {name for name in private if any(_has(kind, name) for kind in theirs)}
            assert inherited <= known, ours


def _has(kind: type, name: str) -> bool:
    """Whether a class has a method of this name, or sets an attribute of it when it is made."""
    return hasattr(kind, name) or f"self.{name} =" in inspect.getsource(kind)
