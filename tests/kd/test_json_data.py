"""Dataclasses survive JSON; what is missing takes its default, what is unknown names its writer."""

import json
import math
from dataclasses import dataclass, field
from typing import Any

import pytest

from kd import VERSION
from kd.errors import ProtocolError
from kd.json_data import JsonData, from_wire, kinds_in, plain, to_wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner(JsonData):
    share: float
    name: str = "none"

    def __post_init__(self) -> None:
        if self.share > 1:
            raise ProtocolError("share must lie in 0-1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer(JsonData):
    count: int
    flag: bool = False
    inner: Inner = Inner(share=0.5)
    names: tuple[str, ...] = ()
    several: list[Inner] = field(default_factory=list)
    by_name: dict[str, float] = field(default_factory=dict)
    perhaps: Inner | None = None
    anything: dict[str, Any] = field(default_factory=dict)


FULL = Outer(
    count=3,
    flag=True,
    inner=Inner(share=1.0, name="x"),
    names=("a", "b"),
    several=[Inner(share=0.25)],
    by_name={"a": 1.5},
    perhaps=Inner(share=0.75),
    anything={"list": [1, None, {"deep": "yes"}]},
)


def test_every_kind_of_field_survives_json() -> None:
    assert Outer.from_json(json.loads(json.dumps(FULL.to_json()))) == FULL


def test_missing_keys_take_the_defaults_however_deep() -> None:
    assert Outer.from_json({"count": 3}) == Outer(count=3)
    deep = Outer.from_json({"count": 3, "several": [{"share": 0.5}]})
    assert deep.several == [Inner(share=0.5, name="none")]


def test_a_missing_key_without_a_default_is_named_however_deep() -> None:
    with pytest.raises(ProtocolError, match=r"^Outer lacks 'count'$"):
        Outer.from_json({})
    with pytest.raises(ProtocolError, match=r"^several\[0\]: Inner lacks 'share'$"):
        Outer.from_json({"count": 3, "several": [{}]})


def test_an_unknown_key_names_the_newer_version_that_wrote_it_however_deep() -> None:
    update = f"of Inner, written by Retort 9.0; this is Retort {VERSION}: update it$"
    given = {"count": 1, "perhaps": {"share": 1, "new": 1}}
    with pytest.raises(ProtocolError, match="^perhaps: unknown key 'new' " + update):
        Outer.from_json(given, "9.0")
    for own in ("", VERSION):
        with pytest.raises(ProtocolError, match=r"^perhaps: unknown key 'new' of Inner$"):
            Outer.from_json(given, own)


@pytest.mark.parametrize(
    ("key", "wrong", "message"),
    [
        ("count", 1.0, "count must be a whole number, got 1.0"),
        ("count", True, "count must be a whole number, got True"),
        ("flag", 1, "flag must be true or false, got 1"),
        ("inner", None, "inner: Inner must be a JSON object, got None"),
        ("inner", {"share": True}, "inner: share must be a finite number, got True"),
        ("inner", {"share": math.nan}, "inner: share must be a finite number, got nan"),
        ("inner", {"share": 10**400}, "inner: share must be a finite number, got 1000"),
        ("inner", {"share": 2}, "inner: share must lie in 0-1"),
        ("names", "ab", "names must be a list, got 'ab'"),
        ("names", ["a", 1], r"names\[1\] must be a text, got 1"),
        ("by_name", [], r"by_name must be a JSON object, got \[\]"),
        ("by_name", {"a": "1"}, r"by_name\['a'\] must be a finite number, got '1'"),
        ("perhaps", 1, "perhaps: Inner must be a JSON object, got 1"),
    ],
)
def test_a_value_of_another_type_is_refused_and_named(key: str, wrong: Any, message: str) -> None:
    with pytest.raises(ProtocolError, match=f"^{message}"):
        Outer.from_json({**FULL.to_json(), key: wrong})


def test_equal_objects_are_written_alike() -> None:
    """1 and 1.0, 0.0 and -0.0 are equal, though JSON writes them apart."""
    for given, wanted in ((1, "1.0"), (-0.0, "0.0")):
        assert json.dumps(Inner.from_json({"share": given}).to_json()["share"]) == wanted


def test_without_defaults_only_what_differs_is_left() -> None:
    assert plain(Outer(count=3), defaults=False) == {"count": 3}
    assert plain(FULL, defaults=False)["several"] == [{"share": 0.25}]
    assert plain(FULL) == FULL.to_json()


def test_a_message_states_what_it_is() -> None:
    kinds = kinds_in(globals(), JsonData)
    assert {"Inner", "Outer"} <= set(kinds)
    assert from_wire(json.loads(json.dumps(to_wire(FULL))), kinds) == FULL
    for wrong in (None, [], {}, {"type": "Other"}, {"type": []}, {"type": "Outer"}):
        with pytest.raises(ProtocolError):
            from_wire(wrong, kinds)
