import pytest

from kd import names as catalogue
from kd.errors import ProtocolError
from kd.names import FAMILIES, ModelName, parse_model

MODELS = catalogue.catalogue()
SCALABLE_MODELS = [name for name, facts in MODELS.items() if facts.scalable]


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_read_by_its_own_name(name: str) -> None:
    assert parse_model(name) == ModelName(name, 1.0)


@pytest.mark.parametrize("name", SCALABLE_MODELS)
def test_a_width_factor_is_read(name: str) -> None:
    assert parse_model(f"{name}-w0.125") == ModelName(name, 0.125)
    assert parse_model(f"{name}-w2") == ModelName(name, 2.0)


@pytest.mark.parametrize("name", sorted(set(MODELS) - set(SCALABLE_MODELS)))
def test_a_width_factor_of_a_model_that_has_none_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError, match=f"{name} has no width factor, got {name}-w0.5; models"):
        parse_model(f"{name}-w0.5")


@pytest.mark.parametrize("width", ["0", "0.001", "17", "9" * 40])
def test_a_width_factor_out_of_range_is_refused(width: str) -> None:
    with pytest.raises(ProtocolError, match=r"a width factor must lie in 0.01-16, got "):
        parse_model(f"resnet8-w{width}")


@pytest.mark.parametrize(
    "name",
    ["", "resnet", "resnet8-w", "resnet8-w-1", "resnet8-w.5", "resnet8-w1e1", "resnet8-wnan",
     "resnet8-w٣", "resnet8 ", "resnet8\n", "RESNET8", "-w1", "resnet8-w1-w1"],
    ids=repr,
)  # fmt: skip
def test_what_is_no_model_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError, match="unknown model") as raised:
        parse_model(name)
    assert "\n" not in str(raised.value)


def test_taps_are_counted_from_the_deepest_stage() -> None:
    assert parse_model("resnet20").taps == ("last1", "last2", "last3")
    assert parse_model("wrn-16-2-w0.5").taps == ("last1", "last2", "last3")
    assert parse_model("resnet50").taps == ("last1", "last2", "last3", "last4")
    assert len(parse_model("vgg11_bn").taps) == 5


def test_no_model_has_two_meanings() -> None:
    names = [name for family in FAMILIES.names for name in FAMILIES.literals(family)["MODELS"]]
    assert len(set(names)) == len(names) == len(MODELS)


def test_depths_are_those_that_the_families_allow() -> None:
    from kd.models.families.cifar import NAME

    for name in FAMILIES.literals("cifar")["MODELS"]:
        [(kind, depth, _)] = NAME.findall(name)
        assert int(depth) % 6 == (2 if kind == "resnet" else 4), name


def test_every_model_of_torchvision_exists_there() -> None:
    models = pytest.importorskip("torchvision").models
    assert set(FAMILIES.literals("torchvision")["MODELS"]) <= set(models.list_models(module=models))


def test_the_catalogue_needs_no_torch() -> None:
    assert "torch" not in vars(catalogue)
