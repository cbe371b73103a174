"""Studies of other versions: an older one, whose records lack fields, is read and goes on."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from conductor.command_line.cli import main
from kd import VERSION
from kd.json_data import JsonData
from kd.protocol import Protocol
from storage.files import artifacts
from storage.files.artifacts import read_json, read_record, write_json
from storage.files.layout import Layout
from storage.files.records import Costs, Finalists, RunRecord, StudySettings
from tests.support.tiny import assert_one_line, hasten, results, succeed


def records(root: Path) -> dict[Path, type[JsonData]]:
    """Return every file of the study that holds dataclasses, with what it holds."""
    study = Layout(root).study("digits")
    whole: dict[Path, type[JsonData]] = {
        study.protocol: Protocol,
        study.settings: StudySettings,
        study.finalists: Finalists,
        study.costs: Costs,
    }
    runs = [*study.folder.glob("trials/*/*/result.json"), *study.folder.glob("confirm/*/*/res*")]
    runs += study.folder.glob("confirm/selection/*/*/result.json")
    return {**whole, **dict.fromkeys(runs, RunRecord)}


def defaulted(value: Any) -> Iterator[tuple[type, str]]:
    """Yield (class, field) for each field, at any depth, that has its default: it may be newer."""
    if is_dataclass(value):
        for field in fields(value):
            inner = getattr(value, field.name)
            made = None if field.default_factory is MISSING else field.default_factory()
            if (made if field.default is MISSING else field.default) == inner:
                yield type(value), field.name
            yield from defaulted(inner)
    elif isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from defaulted(inner)


def older(value: Any, newer: set[tuple[type, str]]) -> Any:
    """Return the JSON of a record as a version wrote it that did not know the fields `newer`."""
    if is_dataclass(value):
        default = set(defaulted(value))
        return {
            field.name: older(getattr(value, field.name), newer)
            for field in fields(value)
            if (type(value), field.name) not in newer & default
        }
    if isinstance(value, Mapping):
        return {key: older(inner, newer) for key, inner in value.items()}
    return [older(inner, newer) for inner in value] if isinstance(value, list | tuple) else value


@pytest.fixture
def root(tiny_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    hasten(monkeypatch)
    return Path(shutil.copytree(tiny_study, tmp_path / "runs"))


def test_records_that_lack_a_newer_field_are_read_as_they_were(tiny_study: Path) -> None:
    seen = set()
    for path, kind in records(tiny_study).items():
        record = read_record(path, kind)
        for newer in set(defaulted(record)):
            without = older(record, {newer})
            assert without != record.to_json()
            assert kind.from_json(without) == record
            seen.add(newer[1])
    assert seen >= {"warmup", "margin", "compile", "passed_over", "reason", "feature_kind"}


def test_an_older_study_is_reported_and_continues_as_if_it_were_new(
    tiny_study: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, kind in records(root).items():
        record = read_record(path, kind)
        write_json(path, older(record, set(defaulted(record))))
    assert "margin" not in read_json(Layout(root).study("digits").protocol)
    capsys.readouterr()
    assert (main(["report", "--root", str(root)]), capsys.readouterr().err) == (0, "")
    assert results(root) == results(tiny_study)
    succeed(root, capsys)
    assert results(root) == results(tiny_study)


def test_a_key_of_a_newer_version_is_an_error_that_names_it(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "VERSION", "9.1")
    for path in records(root):
        kept = path.read_bytes()
        write_json(path, {**read_json(path), "new": 1})
        code = main(["report", "--root", str(root)])
        said = capsys.readouterr().err
        assert_one_line(code, said)
        assert str(path) in said
        assert f"written by Retort 9.1; this is Retort {VERSION}: update it" in said
        path.write_bytes(kept)
