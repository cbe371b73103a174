"""Files of the user's own: read, named, copied and imported with the modules beside them."""

import sys
from pathlib import Path

import pytest

from conductor.stages.own_files import keep_own
from kd import own_files
from kd.errors import ArtifactError, ProtocolError
from kd.own_files import OURS, OwnFile, load_kept, load_own, own_place, read_kept, read_own
from kd.own_import import import_folder
from search_spaces.space import load_space
from storage.files.layout import Layout
from tests.test_architecture import MODULES, room


def write(folder: Path, **sources: str) -> Path:
    """Write modules, `a__b` as a/b.py; return the path of `nets`."""
    for name, source in sources.items():
        path = folder / f"{name.replace('__', '/').replace('INIT', '__init__')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return folder / "nets.py"


def keep(folder: Path, own: OwnFile) -> OwnFile:
    """Copy a file as a study does; return the copy."""
    layout = Layout(folder / "runs")
    keep_own(layout, [own])
    return read_kept(layout.own, own.path.name, own.digest)


IMPORTS = {
    "import": ("import blocks\nfound = blocks.A", ["blocks.py"]),
    "import as": ("import blocks as b\nfound = b.A", ["blocks.py"]),
    "from": ("from blocks import A as found", ["blocks.py"]),
    "star": ("from blocks import *\nfound = A", ["blocks.py"]),
    "in a function": ("def found():\n    from blocks import A\n    return A", ["blocks.py"]),
    "of the folder": ("from . import blocks\nfound = blocks.A", ["blocks.py"]),
    "through another": ("from other import found", ["other.py", "blocks.py"]),
    "a package": (
        "import parts\nfound = parts.A",
        ["parts/__init__.py", "parts/deep.py", "parts/base.py", "blocks.py"],
    ),
    "a module of a package": (
        "import parts.base\nfound = parts.base.A",
        ["parts/__init__.py", "parts/deep.py", "parts/base.py", "blocks.py"],
    ),
    "a module of a package, from it": (
        "from parts import base\nfound = base.A",
        ["parts/__init__.py", "parts/deep.py", "parts/base.py", "blocks.py"],
    ),
    "of a folder without __init__": ("from plain.one import A as found", ["plain/one.py"]),
    "where a library may be missing": (
        "try:\n    import gone_for_good\nexcept ImportError:\n    from blocks import A as found",
        ["blocks.py"],
    ),
}
MODULES_BESIDE = {
    "blocks": "A = 'a'\n",
    "other": "import nets\nfrom blocks import A\nfound = A\n",
    "parts__INIT": "from .deep import A\n",
    "parts__deep": "from . import base\nfrom .base import A\n",
    "parts__base": "import blocks\nA = blocks.A\n",
    "plain__one": "A = 'a'\n",
    "unused": "raise SystemExit('it was run')\n",
}


@pytest.mark.parametrize("what", IMPORTS)
def test_a_file_is_copied_and_imported_with_what_it_imports_from_its_folder(tmp_path, what):
    source, beside = IMPORTS[what]
    own = read_own(write(tmp_path / "user", nets=f"{source}\n", **MODULES_BESIDE))
    assert set(own.files) == {"nets.py", *beside}
    copy = keep(tmp_path, own)
    for module in (load_own(copy, "nets.py"), import_folder(copy.path.parent, "nets")):
        found = module.found
        assert (found() if callable(found) else found) == "a"
    paths = [path for path in copy.path.parent.rglob("*") if path.is_file()]
    assert {path.relative_to(copy.path.parent).as_posix() for path in paths} == set(own.files)
    assert not {"nets", "blocks", "parts", "other", "plain"} & set(sys.modules)


def test_files_with_modules_of_the_same_name_keep_apart(tmp_path):
    source = "import blocks\n\ndef again():\n    import blocks\n    return blocks.A\n"
    ones = [
        load_own(read_own(write(tmp_path / name, nets=source, blocks=f"A = {name!r}\n")), "nets.py")
        for name in ("left", "right")
    ]
    assert [one.blocks.A for one in ones] == [one.again() for one in ones] == ["left", "right"]


def test_a_module_with_the_name_of_a_library_is_for_its_own_file_alone(tmp_path):
    source = "import json\nfrom json import dumps\nimport decimal\n"
    path = write(tmp_path, nets=source, json="import decimal\ndumps = 'mine'\n")
    module = load_own(read_own(path), "nets.py")
    assert (module.dumps, module.json.dumps) == ("mine", "mine")
    assert module.decimal is module.json.decimal is sys.modules["decimal"]
    assert sys.modules["json"].dumps([]) == "[]"
    assert load_own(read_own(write(tmp_path / "b", nets=source)), "nets.py").dumps([]) == "[]"


def test_the_rooms_of_retort_beside_a_file_are_not_the_users(tmp_path, monkeypatch):
    assert set(OURS) == set(map(room, MODULES))
    source = "import kd.names\nimport blocks\n"
    path = write(tmp_path, nets=source, kd__names="", kd__INIT="", blocks="")
    assert set(read_own(path).files) == {"nets.py", "blocks.py", "kd/names.py", "kd/__init__.py"}
    monkeypatch.setattr(own_files, "ROOT", tmp_path)
    assert set(read_own(path).files) == {"nets.py", "blocks.py"}


@pytest.mark.parametrize("change", ["A = 2\n", "A = 1\n\n"])
def test_a_file_is_another_when_a_module_beside_it_is(tmp_path, change):
    path = write(tmp_path, nets="import blocks\n", blocks="A = 1\n", unused="A = 1\n")
    digest = read_own(path).digest
    write(tmp_path, unused="A = 2\n")
    assert read_own(path).digest == digest
    write(tmp_path, blocks=change)
    assert read_own(path).digest != digest


def test_contents_that_are_swapped_between_two_modules_are_another_file(tmp_path):
    path = write(tmp_path, nets="import a, b\n", a="A = 1\n", b="A = 2\n")
    digest = read_own(path).digest
    write(tmp_path, a="A = 2\n", b="A = 1\n")
    assert read_own(path).digest != digest


CHANGES = [("blocks", None), ("nets", None), ("json", "A = 2\n")]  # a file more is a change too
CHANGES += [(name, source) for name in ("blocks", "nets") for source in ("A = 2\n", "def a(:\n")]


@pytest.mark.parametrize(("name", "source"), CHANGES)
def test_a_copy_that_was_changed_is_refused(tmp_path, name, source):
    own = keep(tmp_path, read_own(write(tmp_path, nets="import blocks, json\n", blocks="A = 1\n")))
    path = own.path.with_name(f"{name}.py")
    path.write_text(source) if source else path.unlink()
    with pytest.raises(ArtifactError, match=r"pass nets\.py again with its flag to copy it again$"):
        load_kept(own.path.parents[1], "nets.py", own.digest)


def test_a_copy_is_imported_once(tmp_path):
    own = keep(tmp_path, read_own(write(tmp_path, nets="import blocks\n", blocks="A = []\n")))
    one, other = (load_kept(own.path.parents[1], "nets.py", own.digest) for _ in range(2))
    assert one is other
    assert one.blocks.A is other.blocks.A


FAILING = {
    "syntax": ("A = 1\ndef a(:\n", r"/blocks\.py does not import: .*\(blocks\.py, line 2\)$"),
    "bytes": ("A = '\0'\n", r"/blocks\.py does not import: .*null bytes"),
    "late syntax": ("\nreturn\n", r"^nets\.py does not import: Syn.*\(blocks\.py, line 2"),
    "raising": ("\n\n1 / 0\n", r": division by zero \(blocks\.py, line 3, in <module>\)$"),
    "leaving": ("def a():\n    raise SystemExit\na()\n", r"Exit \(blocks\.py, line 2, in a\)$"),
    "no such name": ("", r"cannot import name 'A' from 'blocks'.*\(nets\.py, line 1, in <mod"),
    "no library": ("import gone_for_good", r"No .* 'gone_for_good' \(blocks\.py, line 1, in <m"),
    "no module": ("import parts.gone, parts", r"'parts\.gone' \(blocks\.py, line 1, in <module>"),
}


@pytest.mark.parametrize("what", FAILING)
def test_a_module_that_does_not_import_is_named_in_one_line_with_its_place(tmp_path, what):
    source, message = FAILING[what]
    path = write(tmp_path, nets="from blocks import A\n", blocks=source, parts__INIT="")
    for _ in range(2):
        with pytest.raises(ProtocolError, match=message) as caught:
            load_own(read_own(path), "nets.py")
        assert "\n" not in str(caught.value)


def test_a_module_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    path = write(tmp_path, nets="import blocks\n", blocks="")
    read = Path.read_bytes

    def refuse(self: Path) -> bytes:
        if self.name == "blocks.py":
            raise PermissionError(13, "Permission denied")
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ProtocolError, match=rf"^{tmp_path}/blocks\.py cannot be read: Permission "):
        read_own(path)


def test_the_place_of_a_later_error_is_in_the_module_where_it_arose(tmp_path):
    path = write(
        tmp_path, nets="from parts.one import fail\n", parts__one="def fail():\n    1 / 0\n"
    )
    with pytest.raises(ZeroDivisionError) as caught:
        load_own(read_own(path), "nets.py").fail()
    assert own_place(caught.value) == "parts/one.py, line 2, in fail"
    assert own_place(ValueError()) == ""


def test_a_relative_path_is_found_from_its_folder(tmp_path, monkeypatch):
    write(tmp_path, nets="import blocks\n", blocks="A = 1\n")
    monkeypatch.chdir(tmp_path)
    assert load_own(read_own(Path("nets.py")), "nets.py").blocks.A == 1


SPACE = "import ranges\n\n\ndef suggest(trial):\n    return ranges.a(trial)\n"


def test_a_search_space_imports_from_its_own_folder(tmp_path):
    ranges = "from kd.recipe import Recipe\ndef a(trial):\n    return Recipe(lr={lr})\n"
    write(tmp_path, mine=SPACE, ranges=ranges.format(lr="trial.suggest_float('lr', 0.1, 0.2)"))
    space = load_space(str(tmp_path / "mine.py"))
    assert space.source == f"mine.py@{read_own(tmp_path / 'mine.py').digest}"
    write(tmp_path, ranges=ranges.format(lr="trial.suggest_float('lr', 0.1, 0.3)"))
    assert load_space(str(tmp_path / "mine.py")).digest != space.digest
    write(tmp_path, ranges=ranges.format(lr="1 / 0"))
    with pytest.raises(
        ProtocolError, match=r"/mine\.py, ranges\.py, line 3, in a: suggest of a ra"
    ):
        load_space(str(tmp_path / "mine.py"))
