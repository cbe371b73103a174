"""A study goes on from any folder: what it keeps names no file relative to where it began."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conductor.command_line.cli import main
from conductor.command_line.places import settled_words
from storage.files.artifacts import read_json
from storage.files.layout import Layout, StudyLayout, whole_path
from storage.files.records import StudySettings
from storage.files.tensors import write_tensors
from storage.studies.urls import whole_url
from tests.kd.test_own_models import GOOD, HEAD
from tests.support.tiny import hasten

SPACE = "from search_spaces.plain import suggest\n"


@pytest.fixture
def folders(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """Two folders, of which the first is the current one; home is a third."""
    hasten(monkeypatch)
    for name in ("one", "other", "home"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "one")
    return tmp_path / "one", tmp_path / "other"


# The rule.


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a/b.py", "one/a/b.py"),
        ("./b.py", "one/b.py"),
        ("../b.py", "b.py"),
        ("a/../b.py", "one/b.py"),
        (".", "one"),
        ("..", ""),
        ("~/b.py", "home/b.py"),
        ("~", "home"),
        ("./~/b.py", "one/~/b.py"),
    ],
)
def test_a_path_is_kept_absolute(folders, tmp_path, given, kept):
    assert whole_path(given) == tmp_path / kept
    assert whole_path(whole_path(given)) == tmp_path / kept


def test_links_are_followed_but_for_the_last_which_names_the_file(folders, tmp_path):
    one, other = folders
    (other / "blob").touch()
    (one / "weights.safetensors").symlink_to(other / "blob")
    (one / "link").symlink_to(other)
    assert whole_path("weights.safetensors") == one / "weights.safetensors"
    assert whole_path("link/blob") == other / "blob"
    assert whole_path("link/../x") == tmp_path / "x"


SAME = [
    "sqlite://",
    "sqlite:///:memory:",
    "sqlite:///file::memory:?cache=shared&uri=true",
    "sqlite:///file:shared?mode=memory&uri=true",
    "sqlite:////tmp/a b@c.db?timeout=3",
    "postgresql+psycopg://u:p%40@h/db?passfile=/p&sslrootcert=system",
    "mysql+pymysql://u@h/db?read_default_file=~/.my.cnf",
    "journal:/tmp/a.log",
    "journal:",
    "nonsense",
]


@pytest.mark.parametrize("url", SAME)
def test_a_url_without_a_relative_path_stays_as_it_is(folders, url):
    assert whole_url(url) == url


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("sqlite:///rel.db", "sqlite:///{}/one/rel.db"),
        ("sqlite:///../rel.db?timeout=3", "sqlite:///{}/rel.db?timeout=3"),
        ("sqlite+pysqlite:///a b/rel.db", "sqlite+pysqlite:///{}/one/a b/rel.db"),
        ("sqlite:///~/x.db", "sqlite:///{}/home/x.db"),
        ("journal:rel.log", "journal:{}/one/rel.log"),
        ("journal:../rel.log", "journal:{}/rel.log"),
        ("journal:~/x.log", "journal:{}/home/x.log"),
        ("postgresql://u:p@h/db?passfile=p", "postgresql://u:p@h/db?passfile={}/one/p"),
        ("mysql+pymysql://h/db?ssl_ca=c.pem", "mysql+pymysql://h/db?ssl_ca={}/one/c.pem"),
    ],
)
def test_the_path_in_a_url_is_kept_absolute(folders, tmp_path, given, kept):
    whole = whole_url(given)
    assert re.sub("%2F", "/", whole) == kept.format(tmp_path)
    assert whole_url(whole) == whole


def test_a_file_uri_of_sqlite_is_kept_absolute(folders, tmp_path):
    whole = whole_url("sqlite:///file:rel.db?uri=true")
    assert whole.replace("%3A", ":") == f"sqlite:///file:{tmp_path}/one/rel.db?uri=true"


def test_the_kept_command_means_the_same_in_any_folder(folders):
    one, _ = folders
    for name in ("mine.py", "t.safetensors", "net.py"):
        (one / name).touch()
    line = (
        "run --root r --storage=sqlite:///s.db --space mine.py --dataset folder:p "
        "--teacher net.py:large --student net.py:a,resnet8 --teacher-weights=t.safetensors --lag 1"
    )
    settled = (
        f"run --root {one}/r --storage=sqlite:///{one}/s.db --space {one}/mine.py --dataset "
        f"folder:{one}/p --teacher {one}/net.py:large --student {one}/net.py:a,resnet8 "
        f"--teacher-weights={one}/t.safetensors --lag 1"
    )
    assert settled_words(line.split()) == settled.split()
    plain = "--dataset digits --teacher resnet20 --student a.py:b@0123456789ab --space no.py"
    assert settled_words(plain.split()) == plain.split()


# Begun in one folder, and continued from another.


LINE = "--image-size 8 --teacher-epochs 1 --epochs 1 --batch-size 16 --seeds 1 --workers inline"
DIGITS = "--train-size 60 --teacher resnet8-w0.25 --student resnet8-w0.25 --arms plain"


def begin(*given: str) -> StudyLayout:
    """Begin a study of one trial an arm under the relative root `root`."""
    assert main([*LINE.split(), "--root", "root", "--name", "s", "--trials", "1", *given]) == 0
    return Layout(Path("root").resolve()).study("s")


def go_on(paths: StudyLayout, arms: int) -> StudySettings:
    """Run a second trial of each arm, by nothing but the study's root and name."""
    root = ["--root", str(paths.folder.parent)]
    assert main(["--workers", "inline", "--seeds", "1", *root, "--name", "s", "--trials", "2"]) == 0
    assert main(["report", *root]) == 0
    assert len(paths.trials_csv.read_text().splitlines()) == 1 + 2 * arms
    return StudySettings.read(paths.settings)


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("sqlite:///rel.db", "one/rel.db"),
        ("sqlite:///sub/rel.db?timeout=9", "one/sub/rel.db"),
        ("sqlite:///~/x.db", "home/x.db"),
        ("journal:rel.log", "one/rel.log"),
    ],
)
def test_a_storage_continues_from_another_folder(folders, tmp_path, monkeypatch, url, file):
    Path("sub").mkdir()
    paths = begin(*DIGITS.split(), "--storage", url)
    monkeypatch.chdir(folders[1])
    settings = go_on(paths, arms=1)
    assert (tmp_path / file).is_file()
    assert str(tmp_path / file) in settings.storage
    assert list(folders[1].iterdir()) == []


def test_the_same_relative_storage_from_another_folder_is_refused(folders, capsys, monkeypatch):
    begin(*DIGITS.split(), "--storage", "sqlite:///rel.db")
    root = Path("root").resolve()
    monkeypatch.chdir(folders[1])
    line = ["--root", str(root), "--name", "s", "--storage", "sqlite:///rel.db"]
    assert main(["--workers", "inline", *line]) == 2
    said = capsys.readouterr().err
    assert f"begun with --storage 'sqlite:///{folders[0]}/rel.db', not " in said
    assert list(folders[1].iterdir()) == []


def test_space_models_images_and_weights_of_the_user_continue_from_another_folder(
    folders, monkeypatch
):
    one, other = folders
    (one / "annealed.py").write_text(SPACE)
    (one / "real.py").write_text(HEAD + GOOD)
    (one / "net.py").symlink_to("real.py")
    photos(one / "photos")
    write_weights(one / "blob")
    (one / "t.safetensors").symlink_to("blob")
    own = "--teacher net.py:small --student net.py:small --taps last1"
    files = "--dataset folder:photos --space annealed.py --teacher-weights t.safetensors"
    begun = begin(*own.split(), *files.split())
    command = StudySettings.read(begun.settings).command
    monkeypatch.chdir(other)
    kept = go_on(begun, arms=2)
    assert re.fullmatch(r"annealed\.py@[0-9a-f]{12}", kept.spaces["annealed"].source)
    protocol = read_json(begun.protocol)
    assert protocol["dataset"] == f"folder:{one / 'photos'}"
    assert protocol["teacher_weights"] == [str(one / "t.safetensors")]
    assert main(command[2:]) == 0  # the line that the report gives
    assert list(other.iterdir()) == []


def write_weights(path: Path) -> None:
    """Write weights of the function `small` for photos()."""
    space: dict[str, Any] = {}
    exec(HEAD + GOOD, space)
    write_tensors(path, space["small"](3, 3).state_dict(), {})


def photos(folder: Path) -> None:
    """Write three classes of small images."""
    noise = np.random.default_rng(0)
    for label in "abc":
        (folder / label).mkdir(parents=True)
        for number in range(16):
            pixels = noise.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
