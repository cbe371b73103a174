"""Hostile input is refused in one line: nothing is run, and nothing written where it should not."""

import ast
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from conductor.command_line.cli import _parser, main
from conductor.search.publish import study_note, trial_note
from kd.errors import ArtifactError, ProtocolError
from kd.models.build import build
from kd.models.weights import load_file
from kd.recipe import Recipe
from reports.read.artifacts import read_predictions
from reports.wording import measure
from storage.files import shards
from storage.files.arrays import read_arrays, write_arrays
from storage.files.artifacts import MANIFEST, finish, read_json, write_json
from storage.files.checkpoints import read_checkpoint
from storage.files.datasets import open_part
from storage.files.layout import Layout
from storage.files.records import RunRecord
from storage.files.shards import CachedTeacher
from storage.files.tensors import map_tensors, read_checked, write_tensors
from storage.studies.urls import masked, without_password
from tests.support.fakes import FakePool, make_arm, make_search, metrics, protocol
from tests.support.postgres import postgresql
from tests.support.small import square
from tests.support.tiny import assert_one_line, hasten, refuse, succeed
from workers.jobs import JobContext
from workers.runners.loading import load_teacher

ROOT = Path(__file__).parents[2]
ROOMS = ("kd", "storage", "search_spaces", "workers", "conductor", "reports")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _hastened(monkeypatch):
    hasten(monkeypatch)


# Code.

UNPICKLERS = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
BUILT_IN = ("eval", "exec", "compile", "__import__")
# A user's file of models is run, as a search space is: bytes whose digest has been checked.
ALLOWED = {
    "kd/own_import.py": (
        "exec(compile(source, path, 'exec', dont_inherit=True), vars(module))",
        "compile(source, path, 'exec', dont_inherit=True)",
    ),
    # One class of a member of Retort's own folders, as importing the member would run it.
    "kd/registry.py": (
        "exec(compile(ast.Module([*imports, *found], []), name, 'exec'), namespace)",
        "compile(ast.Module([*imports, *found], []), name, 'exec')",
    ),
}
METHODS = ("read_pickle", "to_pickle", "loads_pickle", "unpickle", "recv", "system", "popen")


def keyword(call: ast.Call, name: str) -> Any:
    found = [each.value for each in call.keywords if each.arg == name]
    return found[0].value if found and isinstance(found[0], ast.Constant) else None


def check_call(call: ast.Call) -> None:
    """Refuse a call that runs text, or reads a pickle without a check."""
    text = ast.unparse(call)
    called, name = ast.unparse(call.func), getattr(call.func, "attr", "")
    assert called not in BUILT_IN, text
    assert name not in METHODS, text
    assert keyword(call, "shell") is None, text
    if called in ("np.load", "numpy.load"):
        assert keyword(call, "allow_pickle") is False, text
    else:
        assert keyword(call, "allow_pickle") is None, text
    if called == "torch.load":
        assert keyword(call, "weights_only") is True, text
    if name in ("get_state_dict", "load_state_dict_from_url"):
        assert keyword(call, "weights_only") is True, text
        assert keyword(call, "check_hash") is True, text


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_nothing_is_unpickled_and_no_text_is_run() -> None:
    for path in (path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        tree = ast.parse(path.read_text())
        assert not {name.split(".")[0] for name in imported(tree)} & set(UNPICKLERS), path
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and not is_allowed(path, node):
                check_call(node)


def is_allowed(path: Path, call: ast.Call) -> bool:
    return ast.unparse(call) in ALLOWED.get(str(path.relative_to(ROOT)), ())


@pytest.mark.parametrize(
    "text",
    [
        "eval(text)",
        "os.system(text)",
        "connection.recv()",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "numpy.lib.format.read_array(file, allow_pickle=True)",
        "subprocess.run(text, shell=True)",
        "weights.get_state_dict(check_hash=True)",
    ],
)
def test_the_check_above_sees_what_is_forbidden(text: str) -> None:
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call)
    with pytest.raises(AssertionError):
        check_call(call)


# Tensor files.


def container(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def described(**changes: Any) -> bytes:
    """Return a header of one tensor of 16 bytes, `logits`."""
    tensor = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16], **changes}
    return json.dumps({"logits": tensor}).encode()


BROKEN = {
    "empty": b"",
    "no container": b"PK\x03\x04" * 10,
    "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x93.",
    "huge header": container(b"{}", length=2**62),
    "long header": container(b"{}", length=2**27),
    "header of another kind": container(b"[1, 2]"),
    "half a header": container(described()[:-9]),
    "no end": container(b"[" * 100_000),
    "data missing": container(described(), bytes(8)),
    "offsets outside": container(described(data_offsets=[0, 1 << 40]), bytes(16)),
    "offsets backward": container(described(data_offsets=[16, 0]), bytes(16)),
    "shape too large": container(described(shape=[1 << 40, 1 << 40]), bytes(16)),
    "shape too small": container(described(shape=[1, 1]), bytes(16)),
    "negative shape": container(described(shape=[-2, -2]), bytes(16)),
    "unknown dtype": container(described(dtype="F33"), bytes(16)),
}


def student() -> Any:
    return build("resnet8-w0.25", classes=3, inputs=square(), stem="cifar", seed=0)


READERS: dict[str, Callable[[Path], object]] = {
    "map_tensors": map_tensors,
    "read_checked": read_checked,
    "read_arrays": read_arrays,
    "read_checkpoint": lambda path: read_checkpoint(path, {}),
    "load_file": lambda path: load_file(student(), path),
    "predictions": read_predictions,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_tensor_file_is_refused_in_one_line(tmp_path, reader: str, kind: str) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(BROKEN[kind])
    with pytest.raises(ArtifactError) as raised:
        READERS[reader](path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"logits": np.zeros((4, 3), np.float32)},
        {"logits": np.zeros(4, np.float32), "labels": np.zeros(4, np.int64)},
        {"logits": np.zeros((4, 3), np.float32), "labels": np.zeros(5, np.int64)},
        {"logits": np.zeros((4, 3), np.float32), "labels": np.zeros((4, 1), np.int64)},
    ],
    ids=repr,
)
def test_predictions_of_another_shape_are_refused(tmp_path, arrays: dict[str, Any]) -> None:
    write_arrays(tmp_path / "test.safetensors", arrays)
    with pytest.raises(ArtifactError, match="does not hold logits and labels"):
        read_predictions(tmp_path / "test.safetensors")


@pytest.fixture
def forged(tiny_study, tmp_path) -> Callable[[str, Callable[[dict[str, Any]], object]], Path]:
    """Change the tensors of a folder of the cache, and its manifest so that it fits."""

    def forge(place: str, change: Callable[[dict[str, Any]], object]) -> Path:
        path = next(iter(sorted((tiny_study / "cache").glob(place))))
        copied = tmp_path / path.parent.relative_to(tiny_study)
        for other in path.parent.iterdir():
            if other.is_file():
                copied.mkdir(parents=True, exist_ok=True)
                (copied / other.name).write_bytes(other.read_bytes())
        tensors = {name: tensor.clone() for name, tensor in map_tensors(path).items()}
        change(tensors)
        write_tensors(copied / path.name, tensors)
        manifest = read_json(copied / MANIFEST)
        finish(copied, manifest["kind"], manifest["identity"], manifest["info"])
        return copied

    return forge


Change = Callable[[dict[str, Any]], object]
IMAGES: dict[str, Change] = {
    "no labels": lambda tensors: tensors.pop("labels"),
    "images of another size": lambda tensors: tensors.update(inputs=tensors["inputs"][:, :, 1:]),
    "fewer images": lambda tensors: tensors.update(inputs=tensors["inputs"][1:]),
    "other dtype": lambda tensors: tensors.update(inputs=tensors["inputs"].float()),
    "labels of no class": lambda tensors: tensors.update(labels=tensors["labels"] + 7),
    "negative labels": lambda tensors: tensors.update(labels=-tensors["labels"]),
}


@pytest.mark.parametrize("change", IMAGES)
def test_forged_images_are_refused(forged, change: str) -> None:
    folder = forged("data/*/train.safetensors", IMAGES[change])
    with pytest.raises(ArtifactError, match=r"train\.safetensors (must hold|holds other labels)"):
        open_part(folder, "train")


WEIGHTS: dict[str, Change] = {
    "missing": lambda tensors: tensors.pop("body.fc.bias"),
    "more": lambda tensors: tensors.update(more=torch.zeros(2)),
    "other shape": lambda tensors: tensors.update({"body.fc.bias": torch.zeros(2)}),
    "other dtype": lambda tensors: tensors.update(
        {"body.fc.bias": tensors["body.fc.bias"].to(torch.int32)}
    ),
}


@pytest.mark.parametrize("change", WEIGHTS)
def test_forged_weights_are_refused(forged, tiny_study, change: str) -> None:
    folder = forged("teachers/*/weights.safetensors", WEIGHTS[change])
    forged("data/*/train.safetensors", lambda tensors: None)
    root = folder.parents[2]
    dataset = next((root / "cache" / "data").iterdir()).name
    given = JobContext(
        protocol=protocol(teachers=("resnet8-w0.25",)),
        root=str(root),
        dataset=dataset,
        teachers=(folder.name,),
    )
    with pytest.raises(ArtifactError, match=r"does not fit resnet8-w0\.25") as raised:
        load_teacher(given)
    assert "\n" not in str(raised.value)


PROJECTIONS: dict[str, Change] = {
    "missing": lambda tensors: tensors.pop("last1"),
    "other dtype": lambda tensors: tensors.update(last1=tensors["last1"].double()),
    "no matrix": lambda tensors: tensors.update(last1=tensors["last1"][0]),
}


@pytest.mark.parametrize("change", PROJECTIONS)
def test_forged_projections_are_refused(forged, change: str) -> None:
    folder = forged("shards/*/projections.safetensors", PROJECTIONS[change])
    with pytest.raises(ArtifactError, match="projections"):
        shards.read_projections(folder)


SHARDS: dict[str, Change] = {
    "no logits": lambda tensors: tensors.pop("logits"),
    "other dtype": lambda tensors: tensors.update(logits=tensors["logits"].double()),
    "one class": lambda tensors: tensors.update(logits=tensors["logits"][:, :1]),
    "one class for all": lambda tensors: tensors.update(logits=tensors["logits"][:, 0]),
    "fewer rows": lambda tensors: tensors.update(
        {name: tensor[:9] for name, tensor in tensors.items()}
    ),
    "fewer rows of features": lambda tensors: tensors.update(
        {"last1.features": tensors["last1.features"][:9]}
    ),
    "another rank": lambda tensors: tensors.update(
        {"last1.features": tensors["last1.features"][:, :1]}
    ),
}


@pytest.mark.parametrize("change", SHARDS)
def test_a_forged_shard_is_refused(forged, tiny_study, change: str) -> None:
    folder = forged("shards/*/view-00000/reading.safetensors", SHARDS[change])
    forged("shards/*/projections.safetensors", lambda tensors: None)
    teacher = CachedTeacher(folder.parent, CPU)
    with pytest.raises(ArtifactError, match="delete"):
        teacher.read(0, torch.arange(60), torch.empty(0), ("last1",))


def test_weights_from_outside_with_code_are_refused_by_the_command(tmp_path, capsys) -> None:
    given = tmp_path / "weights.safetensors"
    given.write_bytes(BROKEN["pickle"])
    said = refuse(tmp_path / "root", capsys, "--teacher-weights", str(given))
    assert "cannot be read as safetensors" in said
    save_file({"body.fc.bias": torch.zeros(3)}, given)
    assert "needs" in refuse(tmp_path / "root", capsys, "--teacher-weights", str(given))


@pytest.mark.parametrize("value", [0, True, float("nan"), float("inf"), 1j])
def test_weights_from_outside_that_are_no_finite_floats_are_refused(tmp_path, value) -> None:
    given = tmp_path / "weights.safetensors"
    tensors = student().state_dict()
    save_file({**tensors, "body.fc.bias": torch.tensor([value] * 3)}, given)
    with pytest.raises(ArtifactError, match=r"fc\.bias") as raised:
        load_file(student(), given)
    assert "\n" not in str(raised.value)


def test_a_cache_with_too_few_validation_logits_is_refused(tiny_study, tmp_path, capsys) -> None:
    root = Path(shutil.copytree(tiny_study, tmp_path / "root"))
    path = next(root.glob("cache/shards/*/validation.safetensors"))
    write_tensors(path, {"logits": map_tensors(path)["logits"][:3].clone()})
    manifest = read_json(path.parent / MANIFEST)
    finish(path.parent, manifest["kind"], manifest["identity"], manifest["info"])
    assert "holds 3 rows of the validation split" in refuse(root, capsys, "--trials", "3")


# JSON.


def again(root: Path, capsys: Any) -> str:
    """Run whatever study is kept under `root`, which must be refused; return the message."""
    capsys.readouterr()
    code = main(["--root", str(root), "--trials", "1", "--workers", "inline"])
    said = capsys.readouterr().err
    assert_one_line(code, said)
    return said


@pytest.fixture
def begun(tiny_study, tmp_path) -> Path:
    """A root with the protocol and the settings of a study, and nothing else."""
    study, copied = Layout(tiny_study).study("digits"), Layout(tmp_path).study("digits")
    write_json(copied.protocol, read_json(study.protocol))
    write_json(copied.settings, read_json(study.settings))
    return tmp_path


ABSURD: dict[str, Any] = {
    "image_size": 10**9,
    "train_size": -1,
    "validation_fraction": "0.1",
    "test_fraction": 1e308,
    "split_seed": -1,
    "teachers": [["resnet8"]],
    "teacher_weights": "/etc/passwd",
    "students": ["../../etc/passwd"],
    "max_latency_ms": "fast",
    "taps": [["last1"]],
    "epochs": True,
    "views": 2**70,
    "batch_size": 0,
    "seed": -1,
    "threads": 10**6,
    "dataset": "folder:",
    "margin": None,
    "augment": "flop",
    "unheard": 1,
}


@pytest.mark.parametrize("field", ABSURD)
def test_an_absurd_protocol_is_refused(begun, capsys, field: str) -> None:
    path = Layout(begun).study("digits").protocol
    write_json(path, {**read_json(path), field: ABSURD[field]})
    said = again(begun, capsys)
    assert any(word in said for word in (field, "unknown model", "folder: requires a path"))
    assert sorted(path.name for path in begun.iterdir()) == ["digits"]


SETTINGS: dict[str, Any] = {
    "lag": -4,
    "sampler": "'; DROP TABLE trials; --",
    "pruner": ["median"],
    "cache": "everything",
    "arms": ["../../plain"],
    "dataset": "../../..",
    "teacher": "/etc",
    "shards": "..",
    "storage": "sqlite://",
    "spaces": {
        "scheduled": {"source": "digits/evil.py", "digest": "0"},
        "plain": {"source": "plain", "digest": "0"},
    },
    "seconds": {"search": "long"},
    "created": 5,
    "unheard": 1,
}


@pytest.mark.parametrize("field", SETTINGS)
def test_absurd_settings_are_refused(begun, capsys, field: str) -> None:
    path = Layout(begun).study("digits").settings
    write_json(path, {**read_json(path), field: SETTINGS[field]})
    again(begun, capsys)
    assert sorted(path.name for path in begun.iterdir()) == ["digits"]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "null", "\x00", "{}", "NaN"])
def test_what_is_no_record_is_refused(begun, capsys, text: str) -> None:
    for path in (Layout(begun).study("digits").settings, Layout(begun).study("digits").protocol):
        kept = path.read_bytes()
        path.write_text(text)
        assert path.name in again(begun, capsys)
        path.write_bytes(kept)


def test_an_absurd_record_of_a_run_is_refused() -> None:
    record = RunRecord(
        recipe=Recipe(), seed=1, horizon=2, outcome="complete", history=[metrics(1, 0.5)], seconds=1
    ).to_json()
    for field, value in (
        ("outcome", "won"),
        ("seed", "1"),
        ("horizon", 1.5),
        ("seconds", 10**400),
        ("history", {"epoch": 1}),
        ("history", [{**record["history"][0], "epoch": 0}]),
        ("test", {"accuracy": "0.9"}),
        ("recipe", {**record["recipe"], "lr": 10**400}),
        ("recipe", {**record["recipe"], "alpha": None}),
    ):
        with pytest.raises(ProtocolError) as raised:
            RunRecord.from_json({**record, field: value})
        assert "\n" not in str(raised.value)


def test_a_recipe_for_reproduction_with_absurd_values_is_refused() -> None:
    plain = Recipe().to_json()
    for field, value in (
        ("lr", -1),
        ("soft_kind", "eval"),
        ("feature_taps", ["../x"]),
        ("student", "../x"),
    ):
        with pytest.raises(ProtocolError):
            Recipe.from_json({**plain, field: value})


# Names and links.


NAMES = ["../../x", "..", ".", "", "/tmp/x", "a/b", "<script>", "a b", "-x", "a\n", "a\0b", "ünï"]
NAMES += ["x" * 65, "x" * 300, "cache", "artifacts", "studies.db", "studies.db-wal", "\ud800"]


@pytest.mark.parametrize("name", NAMES)
def test_a_study_is_not_named_so_and_nothing_is_written(tmp_path, capsys, name: str) -> None:
    assert "a study's name must be" in refuse(tmp_path / "root", capsys, f"--name={name}")
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_is_a_file_is_refused_and_kept(tmp_path, capsys) -> None:
    (tmp_path / "root").write_text("kept")
    for command in ([], ["report"], ["verify"], ["dashboard"]):
        capsys.readouterr()
        flags = [] if command else ["--workers", "inline"]
        code = main([*command, *flags, "--root", str(tmp_path / "root")])
        assert_one_line(code, capsys.readouterr().err)
    assert (tmp_path / "root").read_text() == "kept"


@pytest.mark.parametrize("command", ["report", "confirm", "verify"])
def test_no_command_follows_a_study_out_of_the_root(tiny_study, tmp_path, capsys, command) -> None:
    outside = Path(shutil.copytree(tiny_study / "digits", tmp_path / "outside"))
    (outside / "report.html").unlink()
    before = sorted(outside.rglob("*"))
    root = tmp_path / "root"
    root.mkdir()
    (root / "digits").symlink_to(outside)
    code = main([command, "--root", str(root)])
    said = capsys.readouterr().err
    assert_one_line(code, said)
    assert "is a symbolic link that leaves" in said
    assert sorted(outside.rglob("*")) == before


FLAGS_GIVEN = {
    "--trials": ["1e3", "nan", "0", str(10**30), "9" * 400, "9" * 5000],
    "--seeds": ["nan", "-1", str(10**30)],
    "--lag": ["0", str(10**30)],
    "--epochs": ["nan", "-1", str(10**30)],
    "--image-size": ["0", str(10**9)],
    "--batch-size": ["1", str(10**30)],
    "--threads": ["0", str(10**30)],
    "--seed": ["-1", str(10**30)],
    "--margin": ["nan", "inf"],
    "--teacher-lr": ["nan", "1e400", "0"],
    "--test-fraction": ["nan", "0", "1"],
    "--student": ["resnet8-w" + "9" * 400, "../x", "<script>", "\ud800"],
    "--taps": [",", "../x", "last1,last1"],
    "--teacher-weights": ["/etc/passwd", "/nowhere.safetensors", "x" * 300 + ".safetensors"],
    "--dataset": ["folder:", "folder:/nowhere", "folder:/dev/null", "x" * 5000],
    "--augment": ["", "../x", "none,flip", "crop=nan", "jitter=1e400", "crop=" + "9" * 5000],
    "--cache-budget": ["nan", "-1", "9" * 400 + "GB"],
    "--cache-logits": ["", "top", "top0", "top10", "top" + "9" * 5000],
    "--workers": ["0", "nan", "-1"],
    "--space": ["/etc/passwd", "/nowhere.py"],
    "--arms": ["../x", "plain,plain", "<script>"],
    "--storage": ["sqlite://", "file:///etc/passwd", "sqlite:////etc/passwd", "journal:/proc/x"],
}


@pytest.mark.parametrize(
    ("flag", "value"), [(flag, value) for flag, values in FLAGS_GIVEN.items() for value in values]
)
def test_an_absurd_flag_is_refused(tmp_path, capsys, flag: str, value: str) -> None:
    refuse(tmp_path / "root", capsys, f"{flag}={value}")
    assert {path.name for path in tmp_path.iterdir()} <= {"root"}


def test_a_search_space_that_came_with_the_study_is_not_run(begun, capsys, monkeypatch) -> None:
    """Continuing a study runs its search space: a file that is kept under the digest of it."""
    monkeypatch.chdir(begun)
    (begun / "digits" / "evil.py").write_text("raise SystemExit('it was run')")
    path = Layout(begun).study("digits").settings
    kept = read_json(path)
    spaces = {"evil": {"source": "digits/evil.py", "digest": ""}}
    write_json(path, {**kept, "arms": ["evil"], "spaces": spaces})
    assert "the search space evil is a name or a kept file" in again(begun, capsys)


@pytest.mark.parametrize("place", ["digits", "digits/trials", "digits/confirm", "digits/seal.json"])
def test_a_link_out_of_the_root_is_refused_and_nothing_written(tmp_path, capsys, place) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    (root / place).parent.mkdir(parents=True)
    (root / place).symlink_to(outside)
    assert "is a symbolic link that leaves" in refuse(root, capsys)
    assert list(outside.iterdir()) == []


def test_a_lock_that_is_a_link_is_refused(tmp_path, capsys) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    root = tmp_path / "root"
    root.mkdir()
    (root / "studies.db.digits.lock").symlink_to(victim)
    assert "studies.db.digits.lock cannot be written" in refuse(root, capsys)
    assert victim.read_text() == "kept"


def test_a_file_that_is_a_link_is_replaced_and_not_followed(tmp_path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "file.json"
    victim.write_text("kept")
    path.symlink_to(victim)
    write_json(path, {"new": 1})
    assert victim.read_text() == "kept"
    assert not path.is_symlink()


# Data.


def photos(root: Path) -> Path:
    for kind in ("a", "b"):
        for index in range(12):
            path = root / kind / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (index * 20, 0, 0)).save(path)
    return root


def bomb(path: Path) -> None:
    """An image of 64000 x 64000 pixels in its header, and none in its data."""
    Image.new("1", (1, 1)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 64000, 64000)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    path.write_bytes(content)


def endless(path: Path) -> None:
    """Folders in folders, of which an archive may hold more than Python's stack has room for.

    Not that many here: whoever removes what a test leaves behind is recursive too.
    """
    path = path.with_suffix("")
    path.mkdir()
    for _ in range(150):
        path = path / "d"
        path.mkdir()


HARMS: dict[str, Callable[[Path], object]] = {
    "a bomb": bomb,
    "a pipe": os.mkfifo,
    "an endless folder": endless,
    "no image": lambda path: path.write_text("<svg onload=alert(1)>"),
    "a link out of the tree": lambda path: path.symlink_to("/etc/hostname"),
    "a program": lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) run"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_harmful_image_is_refused_by_the_command(tmp_path, capsys, harm: str) -> None:
    folder = photos(tmp_path / "photos")
    HARMS[harm](folder / "a" / "harm.png")
    flags = ["--dataset", f"folder:{folder}", "--name", "photos", "--train-size", "0"]
    said = refuse(tmp_path / "root", capsys, *flags)
    assert "harm.png" in said or "more than 100 deep" in said


# What is shown.

SCRIPT = "<img src=x onerror=alert(1)>![p](http://a/b)"


def test_notes_for_the_dashboard_hold_no_html_from_outside(tmp_path) -> None:
    """It takes HTML in a note for what it is."""
    from optuna.storages import InMemoryStorage

    arm = make_arm(InMemoryStorage(), "plain")
    arm.decisions.space = replace(
        arm.decisions.space, enqueued={SCRIPT: dict(arm.decisions.space.enqueued["defaults"])}
    )
    note = study_note(arm, protocol(dataset=f"folder:/{SCRIPT}"))
    job = make_search(tmp_path, [arm], FakePool()).job(arm, arm.ask(1) or 0)
    record = RunRecord(
        recipe=job.recipe,
        seed=1,
        horizon=2,
        outcome="failed",
        reason=SCRIPT,
        history=[],
        seconds=0.0,
    )
    for text in (note, trial_note(arm, 0, record, measure("accuracy"))):
        assert SCRIPT not in text
        assert "&lt;img src=x onerror=alert(1)&gt;" in text
        assert "!\\[p\\](" in text  # no picture is fetched


def test_a_report_shows_names_that_are_not_utf_8(tiny_study, tmp_path, capsys, monkeypatch) -> None:
    """The name of a file, or of a class's folder, is bytes; Python keeps odd ones as surrogates."""
    monkeypatch.setattr("reports.write.report.render_page", lambda *found: "class \udcff")
    root = Path(shutil.copytree(tiny_study, tmp_path / "root"))
    assert main(["report", "--root", str(root)]) == 0
    assert Layout(root).study("digits").report_html.read_text() == r"class \udcff"


def test_the_dashboard_is_served_to_this_machine_alone() -> None:
    assert _parser().parse(["dashboard"]).host == "127.0.0.1"


# Passwords.

SECRET = "s3cr3t-of-the-server"


def test_no_file_of_a_study_keeps_the_password_of_its_storage(tmp_path, capsys) -> None:
    """The server trusts whoever comes, with a password or without: the study goes on either way."""
    root, flags = tmp_path / "root", ["--arms", "plain", "--trials", "1"]
    with postgresql() as server:
        user = server.url.replace("postgres:@", f"postgres:{SECRET}@", 1)
        assert SECRET in user
        succeed(root, capsys, *flags, "--storage", user)
        succeed(root, capsys, *flags)
    files = [path for path in root.rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (f"postgresql+psycopg://u:{SECRET}@h:5432/db", "postgresql+psycopg://u@h:5432/db"),
        (f"postgresql://:{SECRET}@h/db", "postgresql://h/db"),
        (f"postgresql://u@h/db?Password={SECRET}&passfile=p", "postgresql://u@h/db?passfile=p"),
        (f"mysql+pymysql://u@h/db?passwd={SECRET}", "mysql+pymysql://u@h/db"),
        ("sqlite:////tmp/a b@c.db", "sqlite:////tmp/a b@c.db"),
        ("journal:/tmp/a", "journal:/tmp/a"),
        ("", ""),
    ],
)
def test_a_url_is_kept_without_its_password(given: str, kept: str) -> None:
    assert without_password(given) == kept
    assert without_password(kept) == kept
    assert masked([f"--storage={given}"]) == [f"--storage={kept}"]
    assert masked(["--storage", given]) == ["--storage", kept]
