"""Members of a kind are the files of its folder: listed, described, proposed for typos, loaded."""

import gc
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kd import registry
from kd.errors import ProtocolError
from kd.registry import Kind, check_name
from tests.support.processes import python


@pytest.fixture
def kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kind]:
    """A kind with the members `large-one` and `small`; a member says so when it is imported."""
    package = tmp_path / "sizes"
    package.mkdir()
    for name, text in {
        "__init__": '"""Sizes."""',
        "small": '"""A small one.\n\nNo more."""\nVALUE = 1\n',
        "large_one": '"""A large one"""\nraise SystemExit("imported")\n',
        "_shared": '"""No member."""',
    }.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield Kind("size", "sizes")
    for name in [name for name in sys.modules if name.partition(".")[0] == "sizes"]:
        del sys.modules[name]


def test_names_and_descriptions_come_from_files_and_import_none(kind: Kind) -> None:
    assert kind.names == ("large-one", "small")
    assert [kind.describe(name) for name in kind.names] == ["A large one", "A small one"]


def test_one_more_file_is_one_more_member(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "sizes" / "huge.py").write_text("VALUE = 3\n")
    assert kind.names == ("huge", "large-one", "small")
    assert kind.load("huge").VALUE == 3
    assert kind.describe("huge") == ""


def test_only_the_requested_member_is_imported(kind: Kind) -> None:
    assert kind.load("small").VALUE == 1
    with pytest.raises(SystemExit, match="imported"):
        kind.load("large-one")


@pytest.mark.parametrize("name", ["smal", "shared", "_shared", "", "large_one", "../small"])
def test_what_is_no_member_is_refused(kind: Kind, name: str) -> None:
    for action in (kind.check, kind.load, kind.describe):
        with pytest.raises(ProtocolError, match="unknown size"):
            action(name)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("vgg16", r"did you mean vgg16_bn\?"),
        ("resnet81", r"did you mean resnet18\?"),
        ("densenet121", "known: resnet152, resnet18, vgg16_bn"),
        ("x", "known: resnet152, resnet18, vgg16_bn"),
    ],
)
def test_a_typo_has_its_near_neighbour_and_no_far_one(name: str, hint: str) -> None:
    known = ["resnet152", "resnet18", "vgg16_bn"]
    check_name("model", known[0], known)
    with pytest.raises(ProtocolError, match=f"^unknown model '{name}'; {hint}$"):
        check_name("model", name, iter(known))


def test_the_registry_needs_no_heavy_library() -> None:
    code = "import sys, kd.registry; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert python(code) == "False False\n"


def test_constants_that_are_literals_are_read_and_no_others(kind: Kind, tmp_path: Path) -> None:
    text = "A, B = 1, 2\nLOW: float = 0.5\nRANGE = (1, 'side')\nHIGH = 2 * LOW\nraise OSError\n"
    (tmp_path / "sizes" / "huge.py").write_text(text)
    assert kind.literals("huge") == {"LOW": 0.5, "RANGE": (1, "side")}


def test_a_file_that_changes_is_read_again(kind: Kind, tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / "sizes" / "huge.py").write_text(f'"""Huge {number}."""\nSIZE = {number}\n')
        assert kind.describe("huge") == f"Huge {number}"
        assert kind.literals("huge") == {"SIZE": number}


def test_parameters_are_read_without_the_rest_of_the_file(kind: Kind, tmp_path: Path) -> None:
    text = """
import dataclasses
import collections.abc
import no_such_library.inside
LEAST = 1.5
@dataclasses.dataclass(frozen=True)
class Parameters:
    least: float = LEAST
    names: collections.abc.Sequence = ()
"""
    (tmp_path / "sizes" / "huge.py").write_text(text)
    parameters = kind.parameters("huge")
    assert parameters is not None
    assert parameters().least == 1.5
    assert kind.parameters("small") is None


def test_members_are_read_by_several_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11.7 fails when a collection of garbage lets another thread parse meanwhile."""
    monkeypatch.setattr(registry, "_parse", registry._parse.__wrapped__)  # each of them parses

    def let_another_thread_run(*_: object) -> None:
        time.sleep(1e-6)

    kind, threshold = Kind("source", "kd.data.sources"), gc.get_threshold()
    gc.callbacks.append(let_another_thread_run)
    gc.set_threshold(100)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: kind.literals("folder")["PATH"], range(20)))
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(let_another_thread_run)
    assert found == ["photos"] * 20


def test_of_thousands_of_names_the_first_are_listed() -> None:
    names = [f"model{number:04}" for number in range(1000)]
    with pytest.raises(ProtocolError) as caught:
        check_name("model", "x", names)
    assert str(caught.value).endswith("model0058, model0059 and 940 more")


def test_of_names_that_begin_as_the_unknown_one_these_are_listed() -> None:
    with pytest.raises(ProtocolError, match=r"unknown model 'reg'; known: regnet_x, regnet_y$"):
        check_name("model", "reg", ["alexnet", "regnet_x", "regnet_y", "vgg11"])
