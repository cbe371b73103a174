"""JSON of frozen dataclasses, both ways: protocols, recipes, records, jobs and events.

A key that is missing takes the field's default, so that a study of an older version of Retort can
be read after fields have been added. An unknown key is an error that names the version of Retort
which wrote it.
"""

import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Self, TypeVar

from kd import VERSION
from kd.errors import ProtocolError, RetortError, require

T = TypeVar("T")
SCALARS: dict[type, str] = {int: "a whole number", bool: "true or false", str: "a text"}


class JsonData:
    """Base of frozen dataclasses that are JSON objects, with one key per field.

    Fields may be str, int, float (finite), bool, another such dataclass, a list or tuple of one
    type, a dictionary with texts as keys, any of these or None, or `Any`.
    """

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        return {name: plain(getattr(self, name)) for name in _hints(type(self))}

    @classmethod
    def from_json(cls, given: Any, writer: str = "") -> Self:
        """Return the object that `to_json` wrote; `writer` is the version of Retort that did.

        Raises ProtocolError, which names the field, for a key that is unknown, a missing key
        without a default, a value of another type, and one that breaks a rule of the class.
        """
        return read_object(cls, given, writer)

    def check_types(self) -> None:
        """Raise ProtocolError for a field of another type than its hint; make floats of numbers.

        1 and 1.0, 0.0 and -0.0 are equal: written alike, equal objects have equal hashes.
        """
        for name, hint in _hints(type(self)).items():
            received = getattr(self, name)
            value = _decode(name, hint, received, "")
            same = hint is float or type(value) is type(received)
            require(f"{name} must be a {type(value).__name__}", same, received)
            object.__setattr__(self, name, value)


def read_object(cls: type[T], given: Any, writer: str = "") -> T:
    """Do as `JsonData.from_json`, for any dataclass."""
    require(f"{cls.__name__} must be a JSON object", isinstance(given, dict), given)
    hints = _hints(cls)
    if unknown := sorted(set(given) - set(hints)):
        raise ProtocolError(f"unknown key {_listed(unknown)} of {cls.__name__}{_by(writer)}")
    if missing := sorted(_required(cls) - set(given)):
        raise ProtocolError(f"{cls.__name__} lacks {_listed(missing)}")
    values = {name: _decode(name, hints[name], given[name], writer) for name in given}
    return cls(**values)


def plain(value: Any, *, defaults: bool = True) -> Any:
    """Return what JSON can hold of dataclasses, dictionaries and sequences, however nested.

    Without `defaults`, fields that have their default are left out: a fingerprint of what remains
    stays the same when a field is added, as long as nobody changes the default of a field.
    """
    if is_dataclass(value) and not isinstance(value, type):
        values = {field: getattr(value, field.name) for field in fields(value)}
        return {
            field.name: plain(inner, defaults=defaults)
            for field, inner in values.items()
            if defaults or not _has_default(field) or inner != _default(field)
        }
    if isinstance(value, Mapping):
        return {key: plain(inner, defaults=defaults) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(inner, defaults=defaults) for inner in value]
    return value


def kinds_in(namespace: Mapping[str, Any], base: type[T]) -> dict[str, type[T]]:
    """Return the classes of a module, whose namespace this is, that derive from `base`, by name."""
    found = {name: kind for name, kind in namespace.items() if isinstance(kind, type)}
    return {name: kind for name, kind in found.items() if issubclass(kind, base)}


def to_wire(value: JsonData) -> dict[str, Any]:
    """Return the JSON of a job or an event, and under `type` which one it is."""
    return {"type": type(value).__name__, **value.to_json()}


def from_wire(given: Any, kinds: Mapping[str, type[Any]]) -> Any:
    """Return what `to_wire` wrote of one of `kinds`. Raises ProtocolError for anything else."""
    require("a message must be a JSON object", isinstance(given, dict), given)
    kind = given.get("type")
    require("a message must have a known type", isinstance(kind, str) and kind in kinds, kind)
    return kinds[kind].from_json({name: given[name] for name in given if name != "type"})


def _hints(cls: type) -> dict[str, Any]:
    """Return the type of every field by name, which takes long to find out and never changes."""
    if cls not in _known_hints:
        hints = typing.get_type_hints(cls)
        _known_hints[cls] = {field.name: hints[field.name] for field in fields(cls)}
    return _known_hints[cls]


_known_hints: dict[type, dict[str, Any]] = {}


def _required(cls: type) -> set[str]:
    return {field.name for field in fields(cls) if not _has_default(field)}


def _has_default(field: Field[Any]) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names))


def _by(writer: str) -> str:
    """Name the version that wrote a key which this version does not know."""
    if not writer or writer == VERSION:
        return ""
    return f", written by Retort {writer}; this is Retort {VERSION}: update it"


def _decode(name: str, hint: Any, value: Any, writer: str) -> Any:
    """Return `value` as the type `hint`. Raises ProtocolError, naming the field, if it is not."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        finite = number and abs(value) <= sys.float_info.max
        require(f"{name} must be a finite number", finite, value)
        return float(value) + 0.0
    if hint in SCALARS:
        require(f"{name} must be {SCALARS[hint]}", type(value) is hint, value)
        return value
    if type(None) in inner:
        return None if value is None else _decode(name, inner[0], value, writer)
    if origin in (list, tuple):
        require(f"{name} must be a list", isinstance(value, list | tuple), value)
        items = (_decode(f"{name}[{i}]", inner[0], item, writer) for i, item in enumerate(value))
        return origin(items)
    if origin is dict:
        texts = isinstance(value, dict) and all(isinstance(key, str) for key in value)
        require(f"{name} must be a JSON object", texts, value)
        return {k: _decode(f"{name}[{k!r}]", inner[1], v, writer) for k, v in value.items()}
    return value if hint is Any else _decode_object(name, hint, value, writer)


def _decode_object(name: str, kind: type[JsonData], value: Any, writer: str) -> JsonData:
    if isinstance(value, kind):
        return value
    try:
        return kind.from_json(value, writer)
    except RetortError as error:
        raise ProtocolError(f"{name}: {error}") from None
