"""A soft loss from the user's own file: it arrives in training, and faults are one line."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conductor.stages.own_files import keep_own, pin_functions
from kd.data.examples import Examples
from kd.errors import ProtocolError
from kd.losses.own import OwnLoss, random_reading
from kd.names import parse_loss
from kd.recipe import Recipe, Schedule
from kd.training.loop import train
from kd.training.teacher import LiveTeacher
from storage.files.layout import Layout
from tests.support.small import TAPS, begin, copied, labelled, plan, same_bits, teacher

CPU = torch.device("cpu")
HEAD = "import random\nimport torch\nfrom torch.nn import functional\n\n\n"
ARGUMENTS = "student, teacher, labels, temperature"
KL = """
    ours, theirs = (one.logits / temperature for one in (student, teacher))
    ours, theirs = ours.log_softmax(1), theirs.log_softmax(1)
    loss = functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    return temperature**2 * loss
"""
HINT = """
    gaps = []
    for tap, ours in student.taps.items():
        theirs = teacher.taps[tap]
        assert theirs.variance > 0 and theirs.attention.shape[0] == len(labels)
        gaps.append((ours.mean((2, 3)).mean(1) - theirs.features.mean((1, 2, 3))).square().mean())
    return sum(gaps) + functional.cross_entropy(student.logits, labels)
"""


def keep(folder: Path, body: str, arguments: str = ARGUMENTS) -> str:
    """Keep a file with the function `mine` as a study does; return its name in a protocol."""
    (folder / "mine.py").write_text(f"{HEAD}def mine({arguments}):{body}")
    pinned, files = pin_functions({"loss": f"{folder}/mine.py:mine"})
    keep_own(Layout(folder), files)
    name: str = pinned["loss"]
    return name


def try_out(folder: Path, body: str, arguments: str = ARGUMENTS, *, mixing: bool = False) -> None:
    name = parse_loss(keep(folder, body, arguments))
    assert name
    loss = OwnLoss.find(name, Layout(folder).own)
    readings = {"last1": random_reading(6, (3, 2, 2), (8, 8), CPU)}
    taps = {"last1": (5, 4, 4)}
    loss.try_out(taps, readings, classes=3, batch=6, device=CPU, mixing=mixing)


@pytest.fixture(scope="module")
def data() -> Examples:
    return labelled()


@pytest.fixture(scope="module")
def source(data: Examples) -> LiveTeacher:
    return teacher(data, data)


def weights(folder: Path, recipe: Recipe, data: Examples, source: LiveTeacher) -> dict:
    state = begin(recipe, source)
    settings = plan(files=Layout(folder).own, study_taps=TAPS)
    list(train(state, recipe, settings, data, data, source))
    return copied(state.network.state_dict())


@pytest.mark.parametrize("kind", ["none", "attention"])
def test_kl_in_the_users_file_trains_as_kl_does(
    tmp_path: Path, kind: str, data: Examples, source: LiveTeacher
) -> None:
    """To the last bit, also beside a feature loss, which still gets its own taps alone."""
    moving = Schedule(shape="linear", initial=5.0, final=1.0)
    recipe = Recipe(soft_kind="kl", temperature=moving, alpha=Schedule.constant(0.7))
    if kind != "none":
        recipe = replace(recipe, feature_kind=kind, feature_weight=1.0, feature_taps=("last2",))
    own = replace(recipe, soft_kind=keep(tmp_path, KL))
    assert own.reads_taps
    assert Recipe.from_json(own.to_json()) == own
    ours, theirs = (weights(tmp_path, each, data, source) for each in (own, recipe))
    assert same_bits(ours, theirs)


def test_an_own_loss_gets_all_taps_of_the_study(
    tmp_path: Path, data: Examples, source: LiveTeacher
) -> None:
    body = f"\n    assert tuple(student.taps) == tuple(teacher.taps) == {TAPS!r}{HINT}"
    recipe = Recipe(soft_kind=keep(tmp_path, body), alpha=Schedule.constant(0.5))
    assert weights(tmp_path, recipe, data, source)
    try_out(tmp_path, HINT)


RETURN = "\n    return "
FAULTS = {
    "no scalar": (
        "student.logits",
        r"must return a scalar tensor of floats, got torch.float32 \[6",
    ),
    "a number": ("1.0", "must return a scalar tensor of floats, got float"),
    "nothing": ("None", "must return a scalar tensor of floats, got None"),
    "whole": ("labels.sum()", r"must return a scalar tensor of floats, got torch.int64 \[\]"),
    "nan": (
        "(student.logits - 100).log().mean()",
        "must be finite, got nan for random outputs at ",
    ),
    "detached": ("student.logits.detach().mean()", "has no gradient for random outputs"),
    "of the teacher": ("teacher.logits.mean()", "has no gradient for random outputs"),
    "zero": ("0 * student.logits.mean()", "has no gradient for random outputs"),
    "steep": ("(student.logits * 0).abs().sum().sqrt()", "has a gradient that is not finite"),
    "chance": ("student.logits.mean() * random.random()", r"gives [-\d.]+, then [-\d.]+, for rand"),
    "tap": (
        'student.taps["last7"].mean()',
        r"fails: it reads the tap 'last7', .*: it has last1 \(",
    ),
    "of a teacher": (
        'teacher.taps["x"].mean()',
        "fails: it reads the tap 'x', which the study lac",
    ),
    "error": (
        "student.logits @ teacher.logits",
        "fails: RuntimeError: mat1 and mat2 shapes cannot",
    ),
    "missing": ("student.features.mean()", "fails: AttributeError: 'Output' object has no attrib"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_loss_that_cannot_be_trained_with_is_refused_in_one_line(tmp_path, fault) -> None:
    body, message = FAULTS[fault]
    with pytest.raises(ProtocolError, match=rf"^mine\.py:mine {message}") as refused:
        try_out(tmp_path, RETURN + body)
    assert "\n" not in str(refused.value)
    assert f"(mine.py, line {7 if 'fails' in message else 6}, in mine)" in str(refused.value)


@pytest.mark.parametrize(
    "body",
    [
        "-student.logits.log_softmax(1).gather(1, labels[:, None]).mean()",
        "functional.one_hot(labels, 3).mul(student.logits).mean()",
        "-student.logits[torch.arange(len(labels)), labels].mean()",
    ],
)
def test_a_loss_of_class_numbers_is_refused_where_images_are_mixed(tmp_path, body) -> None:
    try_out(tmp_path, RETURN + body)
    message = (
        r"^mine\.py:mine fails with the labels of mixed images, which are shares .* line 7, in"
    )
    with pytest.raises(ProtocolError, match=message) as refused:
        try_out(tmp_path, RETURN + body, mixing=True)
    assert "\n" not in str(refused.value)


def test_a_loss_is_tried_with_the_shares_of_two_classes(tmp_path: Path) -> None:
    check = "\n    assert labels.dtype == torch.float32 and labels.shape == (6, 3)"
    check += "\n    assert torch.allclose(labels.sum(1), torch.ones(6)) and (labels > 0).sum() > 6"
    body = "functional.cross_entropy(student.logits, labels)"
    try_out(tmp_path, f"{check}{RETURN}{body}", mixing=True)


def test_draws_of_torch_are_repeatable_and_taken(tmp_path: Path) -> None:
    try_out(tmp_path, RETURN + "functional.dropout(student.logits, 0.5).square().mean()")


@pytest.mark.parametrize("arguments", ["student, teacher, labels", "*, student, teacher"])
def test_a_function_with_other_arguments_is_refused(tmp_path: Path, arguments: str) -> None:
    message = r"^mine\.py:mine must take student, teacher, labels, temperature: .* line 6, in mine"
    with pytest.raises(ProtocolError, match=message):
        try_out(tmp_path, RETURN + "student.logits.mean()", arguments)


def test_a_missing_function_is_refused_with_the_nearest(tmp_path: Path) -> None:
    name = parse_loss(keep(tmp_path, RETURN + "student.logits.mean()").replace(":mine", ":mien"))
    assert name
    with pytest.raises(ProtocolError, match=r"function of mine\.py 'mien'; did you mean mine\?"):
        OwnLoss.find(name, Layout(tmp_path).own)


def test_a_fault_during_training_names_the_line_and_another_study(
    tmp_path: Path, data: Examples, source: LiveTeacher
) -> None:
    body = "\n    if temperature < 4:\n        raise ValueError('late')" + KL
    moving = Schedule(shape="linear", initial=5.0, final=1.0)
    recipe = Recipe(
        soft_kind=keep(tmp_path, body), temperature=moving, alpha=Schedule.constant(0.5)
    )
    message = r"^mine\.py:mine fails: ValueError: late \(mine\.py, line 8, in mine\); .* --name$"
    with pytest.raises(ProtocolError, match=message):
        weights(tmp_path, recipe, data, source)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine.py", r"^a loss of your own must be FILE\.py:FUNCTION, .*--loss mine\.py:squared$"),
        ("mine.py:f", r"^a loss of your own must be FILE\.py:FUNCTION"),
        ("dkkd", r"^unknown logit loss 'dkkd'; did you mean dkd\?"),
    ],
)
def test_another_name_is_refused(name: str, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        parse_loss(name)


def test_an_own_loss_in_a_recipe_has_no_parameters() -> None:
    with pytest.raises(ProtocolError, match=r"must be empty for a loss of your own, got \{'a'"):
        Recipe(soft_kind="mine.py:f@0123456789ab", soft_parameters={"a": 1})
