"""What the command line asks for: flags before the study's own record, before the preset."""

from pathlib import Path
from typing import Any

import pytest

from conductor.command_line.cli import main
from conductor.command_line.presets import PRESETS, preset
from conductor.request import Request, announced, choose_spaces
from conductor.search.pruners import PRUNERS
from conductor.search.samplers import SAMPLERS
from conductor.stages.own_files import keep_own
from conductor.stages.provenance import composed
from kd.errors import ProtocolError, StudyError
from kd.own_files import read_own
from kd.protocol import Protocol
from storage.files.artifacts import write_json
from storage.files.layout import Layout
from storage.files.records import SpaceSource
from tests.support import fakes

COMPOSED = [
    ("--trials 20", (20, 6, False), "--trials 20"),
    ("--name a", (20, 6, False), "--name a"),
    ("--trials 3", (1, 6, False), "--trials 3"),
    ("--trials 3 --seed 1", (5, 6, False), "--seed 1 --trials 5"),
    ("--trials=3 --seeds=2 --lag 1", (3, 6, True), "--trials=3 --lag 1 --seeds 6 --ablate"),
    ("--evidence standard", (20, 10, False), "--evidence standard"),
    ("run --evidence quick --ablate", (20, 10, True), "run --ablate --seeds 10"),
]


@pytest.mark.parametrize(("first", "made", "line"), COMPOSED)
def test_the_command_states_what_all_sessions_made(first, made, line):
    trials, seeds, ablate = made
    begun = ["python", "study.py", *first.split()]
    again = ["python", "study.py", *line.split()]
    assert composed(begun, trials, seeds, ablate=ablate) == again
    assert composed(again, trials, seeds, ablate=ablate) == again


SPACE = "from search_spaces.plain import suggest\n"


def request(**changed: Any) -> Request:
    values: dict[str, Any] = {
        "name": "study",
        "root": Path("runs"),
        "protocol": fakes.protocol(),
        "trials": 20,
        "seeds": 6,
        "ablate": False,
        "spaces": ["scheduled", "plain"],
        "sampler": "tpe",
        "pruner": "median",
        "lag": 4,
        "workers": "auto",
        "storage": "",
        "cache_budget": 10**9,
        "command": [],
    }
    return Request(**{**values, **changed})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"trials": 0}, "--trials must be at least 1, got 0"),
        ({"seeds": 0}, "--seeds must be at least 1, got 0"),
        ({"lag": 0}, "--lag must be at least 1, got 0"),
        ({"lag": -3}, "--lag must be at least 1, got -3"),
        ({"workers": "0"}, "--workers must be auto, inline, ray or a number, got '0'"),
        ({"workers": "-1"}, "--workers must be .*, got '-1'"),
        ({"workers": "1.5"}, "--workers must be .*, got '1.5'"),
        ({"workers": "٣"}, "--workers must be .*, got '٣'"),
        ({"workers": ""}, "--workers must be .*, got ''"),
        ({"sampler": "tpee"}, "unknown sampler 'tpee'; did you mean tpe?"),
        ({"pruner": "medain"}, "unknown pruner 'medain'; did you mean median?"),
        ({"sampler": "gp"}, "the gp sampler ignores pruned trials: use --pruner none, not median"),
        ({"spaces": ["plane"]}, "unknown arm 'plane'; did you mean plain?"),
        ({"spaces": ["plain", "plain"]}, "each arm must be named once, got .*plain"),
        ({"gpus_per_trial": 0.5}, "--ray-address and --gpus-per-trial need --workers ray"),
        ({"workers": "ray", "gpus_per_trial": 2.0}, r"--gpus-per-trial must lie in \(0, 1\]"),
    ],
)
def test_a_request_that_breaks_a_rule_is_refused_with_the_rule(changed, message):
    with pytest.raises(ProtocolError, match=message):
        request(**changed)


@pytest.mark.parametrize("pruner", PRUNERS.names)
@pytest.mark.parametrize("sampler", SAMPLERS.names)
def test_samplers_and_pruners_go_together_but_gp_with_pruning(sampler, pruner):
    if sampler == "gp" and pruner != "none":
        with pytest.raises(ProtocolError, match="gp"):
            request(sampler=sampler, pruner=pruner)
    else:
        request(sampler=sampler, pruner=pruner)


@pytest.mark.parametrize(
    ("flags", "sampler", "pruner"),
    [
        (["--sampler", "random"], "random", "median"),
        (["--sampler", "gp"], "gp", "none"),
        (["--pruner", "none"], "tpe", "none"),
        (["--sampler", "tpe", "--pruner", "halving"], "tpe", "halving"),
    ],
)
def test_a_sampler_or_a_pruner_takes_the_place_of_promotion(resolve, flags, sampler, pruner):
    asked = resolve("run", *flags)
    assert (asked.sampler, asked.pruner) == (sampler, pruner)


@pytest.mark.parametrize("workers", ["auto", "inline", "ray", "1", "17"])
def test_workers_are_a_word_or_a_number(workers):
    assert request(workers=workers).workers == workers


def test_a_space_of_the_user_takes_the_place_of_scheduled():
    assert choose_spaces(None, None) == ["scheduled", "plain"]
    assert choose_spaces(["constant"], None) == ["constant"]
    assert choose_spaces(None, ["mine.py", "b.py"]) == ["mine.py", "b.py", "plain"]
    assert choose_spaces(["scheduled", "plain"], ["mine.py"]) == ["mine.py", "scheduled", "plain"]
    with pytest.raises(ProtocolError, match=r"--space takes a Python file \(\.py\), got mine"):
        choose_spaces(None, ["mine"])
    with pytest.raises(ProtocolError, match=r"a/mine\.py adds its arm: omit mine from --arms"):
        choose_spaces(["plain", "mine"], ["a/mine.py"])


@pytest.mark.parametrize("name", PRESETS.names)
def test_every_preset_is_a_valid_protocol_of_its_data_set(name):
    protocol = Protocol(**{"dataset": "folder:photos", **preset(name)})
    others = {
        "folder": "folder:photos",
        "timm": "folder:photos",
        "cifar10-small": "cifar10",
    }
    assert protocol.dataset == others.get(name, name)


def test_an_unknown_preset_is_refused_with_the_nearest():
    with pytest.raises(ProtocolError, match="unknown preset 'cifar'; did you mean cifar10"):
        preset("cifar")


class ResolvedError(StudyError):
    """Raised in place of running a study."""


@pytest.fixture
def resolve(monkeypatch, tmp_path, capsys):
    """Return what a command line asks for, without running it."""
    requests: list[Request] = []

    class Study:
        def __init__(self, asked: Request, display: object) -> None:
            requests.append(asked)

        def run(self) -> None:
            raise ResolvedError("resolved")

        confirm = run

    monkeypatch.setattr("conductor.study.Study", Study)

    def resolve(*arguments: str, root: Path | None = tmp_path / "runs") -> Request:
        where = [] if root is None else ["--root", str(root)]
        assert main([*arguments, *where]) == 2
        said = capsys.readouterr().err
        assert said == "study.py: resolved\n", said
        return requests.pop()

    return resolve


def test_without_flags_the_digits_preset_runs_scheduled_against_plain(resolve):
    asked = resolve("run")
    assert asked.name == "digits"
    assert asked.protocol == Protocol(**preset("digits"))
    assert asked.spaces == ["scheduled", "plain"]
    assert (asked.sampler, asked.pruner, asked.lag, asked.storage) == ("", "", 4, "")
    assert (asked.trials, asked.seeds, asked.workers) == (20, 6, "auto")
    assert asked.cache_budget == 20 * 10**9


def test_the_default_root_is_runs(resolve, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert resolve("run", root=None).root == Path("runs")


def test_run_may_be_left_out_and_the_command_is_kept(resolve, tmp_path):
    asked = resolve("--trials", "3")
    assert asked.trials == 3
    root = str(tmp_path / "runs")
    assert asked.command == ["python", "study.py", "--trials", "3", "--root", root]


NAMED = [
    name for name in PRESETS.names if name not in ("folder", "timm", "cifar10-small")
]  # by their data set


@pytest.mark.parametrize("name", NAMED)
def test_a_preset_names_the_study_and_flags_come_before_it(resolve, name):
    asked = resolve("--preset", name, "--batch-size", "8", "--augment=crop", "--margin", "1")
    assert asked.name == name
    wanted = {**preset(name), "batch_size": 8, "augment": "crop=4", "margin": 1.0}
    assert asked.protocol == Protocol(**wanted)
    assert resolve("--dataset", name).protocol == Protocol(**preset(name))


def test_a_shorter_horizon_shortens_the_preset_s_teacher_and_confirmation(resolve):
    def epochs(*flags):
        asked = resolve("--preset", "cifar10", *flags).protocol
        return asked.epochs, asked.teacher_epochs, asked.confirm_epochs

    assert epochs() == (30, 30, 100)
    assert epochs("--epochs", "1") == (1, 1, 4)
    assert epochs("--epochs", "15") == (15, 15, 50)
    assert epochs("--epochs", "60") == (60, 30, 100)
    assert epochs("--epochs", "1", "--teacher-epochs", "9", "--confirm-epochs", "2") == (1, 9, 2)


def test_taps_and_arms_are_lists_with_commas(resolve):
    asked = resolve("--taps", "last1, last2", "--arms", "constant,plain")
    assert asked.protocol.taps == ("last1", "last2")
    assert asked.spaces == ["constant", "plain"]


@pytest.mark.parametrize(
    ("source", "path", "name"),
    [("folder", "My photos", "My-photos"), ("cifar10", "data", "cifar10")],
)
def test_a_path_of_data_is_made_absolute_and_a_folder_of_images_names_the_study(
    resolve, monkeypatch, tmp_path, source, path, name
):
    monkeypatch.chdir(tmp_path)
    asked = resolve("--dataset", f"{source}:{path}/")
    assert asked.name == name
    assert asked.protocol.dataset == f"{source}:{tmp_path / path}"
    assert asked.protocol.students == preset(source)["students"]


def test_a_path_of_weights_is_made_absolute(resolve, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.safetensors").touch()
    asked = resolve("--teacher-weights", "t.safetensors")
    assert asked.protocol.teacher_weights == (str(tmp_path / "t.safetensors"),)


@pytest.fixture
def begun(tmp_path):
    """A study that was begun with a protocol, arms and search method of its own."""
    (tmp_path / "mine.py").write_text(SPACE)
    layout, own = Layout(tmp_path / "runs"), read_own(tmp_path / "mine.py")
    keep_own(layout, [own])
    paths = layout.study("digits")
    protocol = fakes.protocol(epochs=7, taps=("last1",), seed=5)
    write_json(paths.protocol, protocol.to_json())
    spaces = {
        "constant": SpaceSource(source="constant", digest="0"),
        "mine": SpaceSource(source=f"mine.py@{own.digest}", digest="1"),
    }
    kept = {"arms": list(spaces), "spaces": {k: v.to_json() for k, v in spaces.items()}}
    kept |= {"sampler": "random", "pruner": "halving", "lag": 9, "storage": "sqlite:////x/y.db"}
    write_json(paths.settings, {**fakes.settings().to_json(), **kept})
    return protocol


def test_a_study_is_resumed_with_its_own_protocol_arms_and_search_method(resolve, begun, tmp_path):
    for asked in (resolve("--trials", "50"), resolve("--name", "digits"), resolve("confirm")):
        assert asked.protocol == begun
        [copy] = (tmp_path / "runs/cache/own").glob("*/mine.py")
        assert asked.spaces == ["constant", str(copy)]
        assert (asked.sampler, asked.pruner, asked.lag) == ("random", "halving", 9)
        assert asked.storage == "sqlite:////x/y.db"


@pytest.mark.parametrize("change", [Path.unlink, lambda copy: copy.write_text("suggest = 1\n")])
def test_a_copy_of_a_space_that_is_gone_or_was_changed_is_refused(begun, tmp_path, capsys, change):
    [copy] = (tmp_path / "runs/cache/own").glob("*/mine.py")
    change(copy)
    for command in ("run", "confirm"):
        assert main([command, "--root", str(tmp_path / "runs")]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"study.py: {copy.parent}")
        assert said.endswith("pass mine.py again with its flag to copy it again\n")


def test_another_name_is_another_study(resolve, begun):
    asked = resolve("--name", "other")
    assert asked.protocol == Protocol(**preset("digits"))
    assert asked.spaces == ["scheduled", "plain"]


def test_a_flag_comes_before_what_a_study_was_begun_with(resolve, begun):
    asked = resolve("--epochs", "8", "--pruner", "none", "--arms", "plain")
    assert asked.protocol == fakes.protocol(epochs=8, taps=("last1",), seed=5)
    assert (asked.sampler, asked.pruner) == ("random", "none")
    assert asked.spaces == ["plain"]


def test_confirm_takes_seeds_and_workers(resolve, begun):
    asked = resolve("confirm", "--seeds", "12", "--workers", "inline")
    assert (asked.seeds, asked.workers) == (12, "inline")


def test_confirm_finds_the_only_study_whatever_its_name(resolve, begun, tmp_path):
    (tmp_path / "runs" / "digits").rename(tmp_path / "runs" / "other")
    asked = resolve("confirm")
    assert asked.name == "other"
    assert asked.protocol == begun


def test_what_is_announced_is_what_will_run():
    protocol = fakes.protocol(views=0, confirm_epochs=0, epochs=7)
    spaces = ["scheduled", "mine/space.py"]
    head, *lines = announced(
        request(protocol=protocol, spaces=spaces, trials=3), ("last1", "last2")
    )
    assert head == (
        "study study in runs: arms scheduled, space; trials 3, seeds 6, "
        "sampler tpe, pruner median, lag 4"
    )
    default = request(protocol=protocol, spaces=spaces, trials=3, sampler="", pruner="")
    assert announced(default, ())[0] == (
        "study study in runs: arms scheduled, space; trials 3, seeds 6, search promotion, lag 4"
    )
    told = dict(part.split(" ") for line in lines for part in line.strip().split(", "))
    assert list(told) == list(protocol.to_json())
    assert (told["epochs"], told["views"], told["confirm_epochs"]) == ("7", "7", "7")
    assert told["taps"] == "last1+last2"
    assert [line.split()[0] for line in lines] == [
        "dataset",
        "teachers",
        "students",
        "epochs",
        "metric",
    ]


def test_pairs_of_taps_are_announced_as_they_were_given_and_none_in_common_too():
    pairs = ("layer3=layer2", "layer2=layer1")
    given = request(protocol=fakes.protocol(taps=pairs))
    assert any("taps layer3=layer2+layer2=layer1" in line for line in announced(given, ("last1",)))
    none = request(protocol=fakes.protocol())
    assert any(line.endswith("taps none") for line in announced(none, ()))


HOSTILE = [
    ("--fix student=resnet8", "--fix student=resnet8: resnet8-w0.125 is the only one; omit the fl"),
    ("--fix student=resnet14 --student resnet8,resnet20", "unknown choice of --fix student 'resne"),
    ("--fix soft_kind=dkd --augment mixup", "unknown choice of --fix soft_kind 'dkd'; known: kl"),
    ("--fix soft_kind=kl --loss dkd", "--loss dkd gives every recipe its soft loss; omit one of"),
    ("--fix zeta=1", "unknown parameter of --fix 'zeta'; known: alpha"),
    ("--fix temperature=4 --arms plain", "unknown parameter of --fix 'temperature'; known: label"),
    ("--range lr=3:0.1", "--range takes the lower end first, got 'lr=3:0.1'"),
    ("--range lr=0.01:11", "--range lr=0.01:11: the search space scheduled: suggest of a trial at"),
    ("--range temperature=0:6", "temperature_initial is on a log scale, so its ends must be above"),
    ("--range lr=0.1:0.2 --fix lr=0.1", "--fix and --range both name lr; give one of them"),
    ("--loss dkd --augment cutmix", "--loss dkd needs one label for each image, and --augment cu"),
    ("--warm-start digits", "--warm-start names another study, got digits, the study itself"),
    ("--warm-start none", "there is no study none under"),
    (
        "--timeout 0",
        "a time is hours, minutes or seconds, such as 2h, 90m, 3600s or 1h30m, got '0'",
    ),
    ("--timeout=-5m", "a time is hours, minutes or seconds"),
    ("--timeout nan", "a time is hours, minutes or seconds"),
]


@pytest.mark.parametrize(("words", "message"), HOSTILE)
def test_flags_that_do_not_fit_are_refused_in_one_line_before_anything_begins(
    tmp_path, capsys, monkeypatch, words, message
):
    monkeypatch.setattr("search_spaces.space.DRAWS", 9)
    assert main(["--root", str(tmp_path / "runs"), *words.split()]) == 2
    said, error = capsys.readouterr()
    assert message in error
    assert (said, error.count("\n")) == ("", 1)
    assert not (tmp_path / "runs").exists()


def test_dkd_is_refused_where_augmentation_mixes_images(tmp_path, capsys):
    space = tmp_path / "mine.py"
    space.write_text(
        "from kd.recipe import Recipe, Schedule\n"
        "def suggest(trial, study):\n"
        "    alpha = Schedule.constant(trial.suggest_float('a', 0, 1))\n"
        "    return Recipe(soft_kind='dkd', alpha=alpha)\n"
    )
    flags = ["--dataset", "digits", "--space", str(space), "--root", str(tmp_path / "runs")]
    assert main([*flags, "--augment", "flip,cutmix"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "soft_kind=dkd, which needs one label for each image, and --augment mixes images" in line
    assert not (tmp_path / "runs").exists()
