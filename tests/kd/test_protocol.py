import contextlib
import dataclasses
import hashlib
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd.dataset_names import dataset_slug
from kd.errors import ProtocolError
from kd.protocol import Protocol
from tests.support.json_values import any_json
from tests.support.processes import python

PROTOCOL = Protocol(
    dataset="cifar10",
    image_size=32,
    teachers=("resnet56",),
    teacher_epochs=30,
    students=("resnet20",),
    epochs=30,
)
FIELDS = [field.name for field in dataclasses.fields(Protocol)]
# Another valid value for each field.
OTHERS: dict[str, Any] = {
    "dataset": "cifar100",
    "image_size": 64,
    "teacher_size": 48,
    "train_size": 1000,
    "validation_fraction": 0.2,
    "test_fraction": 0.3,
    "split_seed": 7,
    "augment": "crop=4,flip,cutout=8",
    "teachers": ("resnet50",),
    "teacher_weights": ("teacher.safetensors",),
    "teacher_epochs": 31,
    "teacher_optimizer": "adamw",
    "teacher_lr": 0.2,
    "teacher_weight_decay": 1e-4,
    "students": ("resnet8-w0.5", "resnet20"),
    "student_weights": "small.pth@0123456789ab",
    "max_params": 1000,
    "max_latency_ms": 0.5,
    "stem": "imagenet",
    "taps": ("last1",),
    "epochs": 31,
    "views": 10,
    "cache_logits": "top32",
    "confirm_epochs": 60,
    "batch_size": 64,
    "warmup": 0.2,
    "optimizer": "adamw",
    "clip": 1.0,
    "ema": 0.9,
    "loss": "mine.py:squared@0123456789ab",
    "metric": "balanced-accuracy",
    "margin": 1.0,
    "seed": 1,
    "threads": 2,
    "precision": "bfloat16",
    "class_weights": "balanced",
    "fit": "pad",
    "follow_links": True,
    "skip_bad_images": True,
    "compile": True,
}

JSON = any_json(
    *("cifar10", "folder:", "folder:x", "crop", "jitter=0.5,flip", "resnet8-w0", "last1", "none"),
    10**400,
)


def altered(**changes: Any) -> dict[str, Any]:
    return {**PROTOCOL.to_json(), **changes}


def test_every_field_has_another_value_in_these_tests() -> None:
    assert set(OTHERS) == set(FIELDS)
    for name, value in OTHERS.items():
        assert getattr(PROTOCOL, name) != value


@pytest.mark.parametrize("name", FIELDS)
def test_a_protocol_survives_json(name: str) -> None:
    protocol = dataclasses.replace(PROTOCOL, **{name: OTHERS[name]})
    read = Protocol.from_json(json.loads(json.dumps(protocol.to_json(), allow_nan=False)))
    assert read == protocol
    assert read.hash == protocol.hash


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_changes_the_hash(name: str) -> None:
    assert dataclasses.replace(PROTOCOL, **{name: OTHERS[name]}).hash != PROTOCOL.hash


def test_the_hash_is_that_of_what_differs_from_the_defaults() -> None:
    """A field that a later version adds, with a default, leaves the hashes of older studies alone;
    keys are in the order of the alphabet: the order of the fields is free to change."""
    defaults = {field.name: field.default for field in dataclasses.fields(Protocol)}
    kept = {k: v for k, v in PROTOCOL.to_json().items() if getattr(PROTOCOL, k) != defaults[k]}
    assert len(kept) < len(FIELDS)
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    assert PROTOCOL.hash == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_the_path_of_a_data_set_is_no_part_of_the_hash_and_its_kind_is() -> None:
    def hashed(dataset: str) -> str:
        return dataclasses.replace(PROTOCOL, dataset=dataset).hash

    assert hashed("folder:/a") == hashed("folder:/b") != hashed("csv:/a") != hashed("npz:/a")
    assert hashed("cifar10:/a") == PROTOCOL.hash
    assert hashed("mine.py:f@0123456789ab") != hashed("mine.py:f@ba9876543210")


def test_the_order_of_the_taps_changes_the_hash() -> None:
    """They are written into shards in this order."""
    turned = dataclasses.replace(PROTOCOL, taps=PROTOCOL.tap_names[::-1])
    assert turned.taps == ("last3", "last2", "last1")
    assert turned.hash != PROTOCOL.hash


def test_the_hash_does_not_depend_on_the_process() -> None:
    code = (
        "import json, sys; from kd.protocol import Protocol; "
        "print(Protocol.from_json(json.load(sys.stdin)).hash)"
    )
    reversed_keys = dict(reversed(PROTOCOL.to_json().items()))
    for hash_seed in ("0", "1"):
        assert python(code, json.dumps(reversed_keys), hash_seed) == f"{PROTOCOL.hash}\n"
    assert len(PROTOCOL.hash) == 16
    assert int(PROTOCOL.hash, 16) >= 0


def test_equal_protocols_have_equal_hashes() -> None:
    """1 and 1.0 are equal, and so are 0.0 and -0.0, though JSON writes them apart."""
    for name, left, right in (("margin", 1, 1.0), ("warmup", -0.0, 0.0), ("teacher_lr", 1, 1.0)):
        one = dataclasses.replace(PROTOCOL, **{name: left})
        other = dataclasses.replace(PROTOCOL, **{name: right})
        assert one == other
        assert one.hash == other.hash


def test_a_protocol_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PROTOCOL.seed = 1  # type: ignore[misc]


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(ProtocolError, match="unknown key 'horizon' of Protocol"):
        Protocol.from_json(altered(horizon=3))


@pytest.mark.parametrize("field", dataclasses.fields(Protocol), ids=lambda field: field.name)
def test_a_missing_key_takes_the_default_or_is_named(field: dataclasses.Field[Any]) -> None:
    given = PROTOCOL.to_json()
    del given[field.name]
    if field.default is dataclasses.MISSING:
        with pytest.raises(ProtocolError, match=f"Protocol lacks '{field.name}'"):
            Protocol.from_json(given)
    else:
        assert getattr(Protocol.from_json(given), field.name) == field.default


NUMBERS = [name for name in FIELDS if type(getattr(PROTOCOL, name)) in (int, float)]
ABSURD = [math.nan, math.inf, -math.inf, -1, 10**400, True, None, "1", "", [1], {}, [[]]]


@pytest.mark.parametrize("absurd", ABSURD, ids=lambda value: repr(value)[:9])
@pytest.mark.parametrize("name", NUMBERS)
def test_an_absurd_number_is_refused(name: str, absurd: Any) -> None:
    with pytest.raises(ProtocolError, match=rf"^{name} must .*, got ") as raised:
        Protocol.from_json(altered(**{name: absurd}))
    assert "\n" not in str(raised.value)
    with pytest.raises(ProtocolError, match=rf"^{name} must .*, got "):
        dataclasses.replace(PROTOCOL, **{name: absurd})


@pytest.mark.parametrize("name", [name for name in NUMBERS if type(getattr(PROTOCOL, name)) is int])
def test_a_fraction_where_a_whole_number_belongs_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError, match=rf"{name} must be a whole number, got 8.0"):
        Protocol.from_json(altered(**{name: 8.0}))


@pytest.mark.parametrize("absurd", [None, 1, 1.5, True, [], ["cifar10"], {}, math.nan])
@pytest.mark.parametrize("name", ["dataset", "augment", "student_weights", "stem"])
def test_an_absurd_text_is_refused(name: str, absurd: Any) -> None:
    with pytest.raises(ProtocolError, match=f"{name} must be a text, got "):
        Protocol.from_json(altered(**{name: absurd}))


@pytest.mark.parametrize("absurd", [None, 0, 1, "true", "", [], {}])
def test_an_absurd_flag_is_refused(absurd: Any) -> None:
    with pytest.raises(ProtocolError, match="compile must be true or false, got "):
        Protocol.from_json(altered(compile=absurd))


@pytest.mark.parametrize("absurd", [None, "last1", 1, {}, [1], [None], [["last1"]]])
@pytest.mark.parametrize("name", ["teachers", "teacher_weights", "students", "taps"])
def test_absurd_names_are_refused(name: str, absurd: Any) -> None:
    with pytest.raises(ProtocolError, match=rf"{name}(\[0\])? must be a (list|text), got "):
        Protocol.from_json(altered(**{name: absurd}))


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"epochs": 0}, "epochs must lie in 1-100000, got 0"),
        ({"image_size": 3}, "image_size must lie in 4-1024, got 3"),
        ({"batch_size": 1}, "batch_size must lie in 2-65536, got 1"),
        ({"threads": 0}, "threads must lie in 1-1024, got 0"),
        ({"validation_fraction": 0}, "validation_fraction must be above 0, got 0"),
        ({"test_fraction": 0}, "test_fraction must be above 0, got 0"),
        ({"validation_fraction": 0.91}, "validation_fraction must lie in 0-0.9, got 0.91"),
        ({"teacher_lr": 0}, "teacher_lr must be above 0, got 0"),
        ({"fit": "cut"}, "unknown fit 'cut'; known: crop, pad, stretch"),
        ({"class_weights": "even"}, "unknown class_weights 'even'; known: none, balanced"),
        (
            {"cache_logits": "top0"},
            "cache_logits must be float32, float16 or a number of the largest, as in top32, got "
            "'top0'",
        ),
        ({"dataset": "mine.py"}, "a data set of your own must be FILE.py:FUNCTION"),
        ({"margin": 101}, "margin must lie in 0-100, got 101"),
        ({"seed": 2**63}, "seed must lie in 0-9223372036854775807, got 9223372036854775808"),
        (
            {"augment": "crop=33"},
            "augmentation crop takes a whole number in 1-32, as in crop=4, got crop='33'",
        ),
        ({"dataset": "cifar-10"}, "unknown dataset 'cifar-10'; did you mean cifar10?"),
        ({"dataset": "folder:"}, "folder: requires a path, as in folder:photos, got 'folder:'"),
        ({"dataset": "folder"}, "folder: requires a path, as in folder:photos, got 'folder'"),
        ({"dataset": "cifar10:"}, "cifar10: requires a path, as in cifar10:DIR, got 'cifar10:'"),
        ({"dataset": "digits:x"}, "digits takes no path, got 'digits:x'"),
        ({"dataset": ""}, "unknown dataset ''; known: cifar10, cifar100, csv, digits"),
        ({"teachers": ("rasnet50",)}, "unknown model 'rasnet50'; did you mean resnet50?"),
        ({"students": ("resnt20",)}, "unknown model 'resnt20'; did you mean resnet20?"),
        ({"students": ("transformer!",)}, "unknown model 'transformer!'; known: resnet8"),
        ({"students": ("resnet18-w0.5",)}, "resnet18 has no width factor, got resnet18-w0.5"),
        ({"stem": "imagnet"}, "unknown stem 'imagnet'; did you mean imagenet?"),
        (
            {"teacher_weights": ("best.onnx",)},
            "teacher_weights must be none, pretrained or a .safetensors, .pth or .pt file, got "
            "'best.onnx'",
        ),
        ({"student_weights": "imagenet"}, "student_weights must be none, pretrained or a"),
        (
            {"student_weights": "pretrained"},
            "there are no ImageNet weights for resnet20; use --student-weights none",
        ),
        (
            {"student_weights": "a.pt", "students": ("resnet8", "resnet20")},
            "a file of weights fits one student, got resnet8, resnet20; name one --student, or use "
            "--student-weights pretrained or none",
        ),
        (
            {"teacher_epochs": 0},
            "a teacher needs weights or training, got resnet56 with teacher_epochs 0 and "
            "teacher_weights none; use --teacher-weights FILE, or --teacher-epochs 1",
        ),
        ({"taps": ("last1", "last1")}, "taps must not repeat a name, got ('last1', 'last1')"),
        (
            {"taps": ("last1", "layer2=layer2")},
            "taps must be names such as last1, or all pairs such as layer4=blocks.5, got ('last1'",
        ),
        ({"taps": ("layer2=",)}, "taps must be names such as last1, or all pairs such as layer4="),
        ({"taps": ("=layer2",)}, "taps must be names such as last1, or all pairs such as layer4="),
        ({"taps": ("a=b=c",)}, "taps must be names such as last1, or all pairs such as layer4="),
        ({"taps": ("a=b", "a=c")}, "taps must not repeat a module, got ('a=b', 'a=c')"),
        ({"taps": ("a=c", "b=c")}, "taps must not repeat a module, got ('a=c', 'b=c')"),
        (
            {"teachers": ("timm:a",), "students": ("timm:b",), "taps": ("layer4",)},
            "taps must be names such as last1, or pairs such as layer4=blocks.5, got 'layer4'",
        ),
        ({"students": ()}, "students must name at least one, got ()"),
        ({"students": ("resnet8",) * 2}, "students must not repeat a name, got ('resnet8', 'resn"),
        ({"max_params": -1}, "max_params must lie in 0-1000000000, got -1"),
        (
            {"taps": ("last4",)},
            "resnet56 has no tap 'last4'; use --taps last1,last2,last3",
        ),
        (
            {"teachers": ("resnet50",), "taps": ("last1", "last4")},
            "resnet20 has no tap 'last4'; use --taps last1,last2,last3",
        ),
        (
            {"teachers": ("resnet50",), "students": ("resnet18", "resnet20"), "taps": ("last4",)},
            "resnet20 has no tap 'last4'; use --taps last1,last2,last3",
        ),
    ],
    ids=repr,
)
def test_a_broken_rule_is_named_with_the_value_received(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(ProtocolError) as raised:
        dataclasses.replace(PROTOCOL, **changes)
    assert rule in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_first_student_is_the_one_that_learns_by_default() -> None:
    assert dataclasses.replace(PROTOCOL, students=("resnet14", "resnet8")).student == "resnet14"


def test_a_tap_that_both_models_have_is_accepted() -> None:
    protocol = dataclasses.replace(
        PROTOCOL, teachers=("resnet50",), students=("resnet18",), taps=("last4", "last1")
    )
    assert protocol.taps == ("last4", "last1")


def test_the_three_last_taps_of_models_of_the_catalogue_are_the_default() -> None:
    """An older study, whose default they were, keeps its hash."""
    named = dataclasses.replace(PROTOCOL, taps=("last1", "last2", "last3"))
    assert named == dataclasses.replace(PROTOCOL, taps=())
    assert (named.taps, named.tap_names) == ((), ("last1", "last2", "last3"))
    others = dataclasses.replace(PROTOCOL, teachers=("timm:vit_tiny",), taps=named.tap_names)
    assert others.taps == ("last1", "last2", "last3")  # which the model must have


def test_pairs_of_taps_have_paths_and_are_named_in_their_order() -> None:
    protocol = dataclasses.replace(PROTOCOL, taps=("layer3=blocks.5", "layer1.0=4"))
    assert protocol.teacher_paths == ("layer3", "layer1.0")
    assert protocol.student_paths == ("blocks.5", "4")
    assert protocol.tap_names == ("last1", "last2")
    assert Protocol.from_json(protocol.to_json()) == protocol
    turned = dataclasses.replace(protocol, taps=protocol.taps[::-1])
    assert turned.hash != protocol.hash
    assert PROTOCOL.teacher_paths == PROTOCOL.student_paths == ()


@pytest.mark.parametrize("given", [None, 1, "protocol", [], [["epochs", 1]], math.nan, {}])
def test_what_is_no_protocol_is_refused(given: Any) -> None:
    with pytest.raises(ProtocolError, match=r"Protocol (must be a JSON object|lacks)"):
        Protocol.from_json(given)


@settings(max_examples=300)
@given(st.data())
def test_from_json_raises_nothing_but_protocol_errors(data: st.DataObject) -> None:
    given = PROTOCOL.to_json()
    for key in data.draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=3)):
        given[key] = data.draw(JSON)
    with contextlib.suppress(ProtocolError):
        protocol = Protocol.from_json(given)
        assert Protocol.from_json(protocol.to_json()).hash == protocol.hash
        json.dumps(protocol.to_json(), allow_nan=False)


@given(JSON)
def test_from_json_of_anything_raises_a_protocol_error(given: Any) -> None:
    with pytest.raises(ProtocolError):
        Protocol.from_json(given)


def test_views_and_confirmation_are_the_horizon_unless_given() -> None:
    assert (PROTOCOL.view_count, PROTOCOL.confirm_horizon) == (30, 30)
    other = dataclasses.replace(PROTOCOL, views=7, confirm_epochs=90)
    assert (other.view_count, other.confirm_horizon) == (7, 90)


def test_differences_are_listed_field_by_field() -> None:
    other = dataclasses.replace(PROTOCOL, epochs=12, taps=("last1",))
    assert PROTOCOL.differences(PROTOCOL) == []
    assert PROTOCOL.differences(other) == [
        "taps: the default -> ['last1']",
        "epochs: 30 -> 12",
    ]


@pytest.mark.parametrize(
    ("dataset", "slug"),
    [
        ("cifar10", "cifar10"),
        ("fashion-mnist", "fashion-mnist"),
        ("cifar10:/a/data", "cifar10"),
        ("folder:/a/My photos", "My-photos"),
        ("folder:/a/My photos/", "My-photos"),
        ("folder:C:\\data\\cats", "cats"),
        ("folder:..", "study"),
        ("folder:_raw_", "raw"),
        ("folder:/фото", "study"),
        ("folder:" + "x" * 300, "x" * 40),
    ],
)
def test_slug_of_a_dataset_is_fit_for_a_file_name(dataset: str, slug: str) -> None:
    assert dataset_slug(dataset) == slug


@given(st.text())
def test_slug_of_anything_is_a_plain_name(path: str) -> None:
    slug = dataset_slug(f"folder:{path}")
    assert 1 <= len(slug) <= 40
    assert slug[0].isascii()
    assert slug[0].isalnum()
    assert not set(slug) & set("/\\: \n\0")
