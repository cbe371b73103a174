"""The taps of a study are those that teacher and students have in common."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kd.models.taps import Tap
from kd.own_files import read_own
from storage.files.artifacts import read_manifest, write_files
from tests.support.ground import Ground, run
from tests.support.small import protocol
from tests.support.tiny import leave_kernels_out
from workers.events import Failed, Result
from workers.jobs import PrepareJob, ProjectionJob, TapsJob, TeacherJob
from workers.pools.inline import InlinePool

timm = pytest.mark.skipif(not importlib.util.find_spec("timm"), reason="needs the extra timm")


@pytest.fixture(autouse=True)
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_kernels_out(monkeypatch)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """Digits of 32 pixels, so that every stage of a model has a size of its own."""
    ground = Ground(tmp_path_factory.mktemp("taps") / "runs", protocol(image_size=32))
    found, _ = run(InlinePool(), ground.job(PrepareJob))
    assert isinstance(found, Result), found
    return replace(ground, dataset=found["dataset"])


def taps(digits: Ground, **changes: Any) -> Any:
    given = protocol(image_size=32, **changes)
    event, _ = run(InlinePool(), digits.job(TapsJob, protocol=given))
    if isinstance(event, Failed):
        return event.reason
    assert isinstance(event, Result)
    return event["taps"]


def test_models_of_the_catalogue_have_the_last_three(digits: Ground) -> None:
    assert taps(digits) == {
        f"last{depth}": {"teacher": f"layer{4 - depth}", "resnet8-w0.125": f"layer{4 - depth}"}
        for depth in (1, 2, 3)
    }
    found = taps(digits, teachers=("resnet18",), students=("vgg11_bn",))
    assert list(found) == ["last1", "last2", "last3"]


def test_named_taps_are_in_the_order_of_the_protocol(digits: Ground) -> None:
    assert list(taps(digits, taps=("last3", "last1"))) == ["last3", "last1"]


def test_pairs_are_read_at_their_modules_by_every_student(digits: Ground) -> None:
    found = taps(digits, students=("resnet8", "resnet14"), taps=("layer3=layer2", "layer1=layer1"))
    assert found == {
        "last1": {"teacher": "layer3", "resnet8": "layer2", "resnet14": "layer2"},
        "last2": {"teacher": "layer1", "resnet8": "layer1", "resnet14": "layer1"},
    }


def test_a_model_may_teach_itself_at_other_modules(digits: Ground) -> None:
    found = taps(digits, students=("resnet8-w0.25",), taps=("layer3=layer2",))
    assert found == {"last1": {"teacher": "layer3", "resnet8-w0.25": "layer2"}}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"taps": ("layer3=layr2",)},
            "a tap of resnet8-w0.125: unknown module 'layr2'; did you mean layer2?",
        ),
        (
            {"taps": ("layr2=layer3",)},
            "a tap of resnet8-w0.25: unknown module 'layr2'; did you mean layer2?",
        ),
        (
            {"students": ("resnet8", "vgg11_bn"), "taps": ("layer3=layer1.0",)},
            "a tap of vgg11_bn: unknown module 'layer1.0'; ",
        ),
    ],
)
def test_a_module_that_a_model_lacks_is_refused_in_a_line(
    digits: Ground, changes: dict[str, Any], reason: str
) -> None:
    found = taps(digits, **changes)
    assert found.startswith(reason)
    assert "\n" not in found


@timm
def test_models_of_a_library_have_the_taps_that_are_found_in_all(digits: Ground) -> None:
    """A vision transformer has one size of maps."""
    assert taps(digits, teachers=("timm:test_vit",)) == {
        "last1": {"teacher": "norm", "resnet8-w0.125": "layer3"}
    }
    found = taps(
        digits, teachers=("resnet18",), students=("timm:test_convnext", "timm:test_resnet")
    )
    assert found["last3"] == {
        "teacher": "layer2",
        "timm:test_convnext": "stages.0",
        "timm:test_resnet": "layer1",
    }
    assert len(found) == 3


@timm
def test_a_named_tap_that_a_model_lacks_is_refused_with_those_that_it_has(digits: Ground) -> None:
    found = taps(digits, students=("timm:test_vit",), taps=("last1", "last2"))
    assert found == "timm:test_vit has no tap 'last2'; use --taps last1"


LINEAR = """
from torch import nn

class Linear(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.classify = nn.Linear(inputs, classes)

    def forward(self, images):
        return self.classify(images.flatten(1))

def linear(classes, channels, size):
    return Linear(channels * size**2, classes)
"""


@pytest.fixture
def linear(digits: Ground, tmp_path: Path) -> str:
    """A model without a tap, whose file is kept under the root; return its name."""
    (tmp_path / "nets.py").write_text(LINEAR)
    own = read_own(tmp_path / "nets.py")
    write_files(digits.layout.own / own.folder, own.files)
    return f"nets.py:linear@{own.digest}"


def test_none_in_common_are_none_unless_they_were_named(digits: Ground, linear: str) -> None:
    assert taps(digits, students=(linear,)) == {}
    reason = taps(digits, students=(linear,), taps=("last1",))
    assert reason.endswith("has no tap 'last1'; omit --taps")


def identity(ground: Ground, **changes: Any) -> Any:
    """The taps in the identity of a teacher's cache."""
    given = protocol(image_size=32, teacher_epochs=1, **changes)
    ground = replace(ground, protocol=given)
    ground = replace(ground, teachers=(ground.made(TeacherJob)["teacher"],))
    ground = replace(ground, shards=(ground.made(ProjectionJob)["shards"],))
    return read_manifest(ground.layout.shards(ground.shards[0]), "shards").identity["taps"]


def test_a_cache_is_identified_by_the_modules_of_the_teacher_alone(digits: Ground) -> None:
    assert identity(digits) == ["last1", "last2", "last3"]
    modules = [
        {"tap": "last1", "path": "layer3", "layout": "map", "prefix": 0},
        {"tap": "last2", "path": "layer1", "layout": "map", "prefix": 0},
    ]
    for pairs in (("layer3=layer3", "layer1=layer1"), ("layer3=layer2", "layer1=layer1")):
        assert identity(digits, taps=pairs) == modules


@timm
def test_the_cache_of_a_teacher_of_a_library_knows_the_layout_of_its_taps(
    digits: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    tap = {"tap": "last1", "path": "norm", "layout": "tokens", "prefix": 1}
    assert identity(digits, teachers=("timm:test_vit",), taps=("last1",)) == [tap]
    other = Tap("blocks.0", "tokens", 1)
    monkeypatch.setattr("kd.models.build.discover", lambda body, inputs: (other,))
    found = identity(digits, teachers=("timm:test_vit",), taps=("last1",))
    assert found == [{**tap, "path": "blocks.0"}]


def test_without_taps_the_cache_has_logits_alone(digits: Ground, linear: str) -> None:
    ground = digits
    given = protocol(image_size=32, teachers=(linear,), teacher_epochs=0)
    event, _ = run(InlinePool(), ground.job(TeacherJob, protocol=given))
    assert isinstance(event, Result), event
    ground = replace(ground, teachers=(event["teacher"],))
    event, _ = run(InlinePool(), ground.job(ProjectionJob, protocol=given, taps=()))
    assert isinstance(event, Result), event
    ground = replace(ground, shards=(event["shards"],))
    assert event["sizes"] == {"logits": 4 * 10 * 60, "features": 0}
    done, _ = run(InlinePool(), ground.shard(protocol=given, taps=()))
    assert isinstance(done, Result), done
