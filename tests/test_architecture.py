"""Rooms and their sub-rooms import one another as the design says; torch stays where it belongs."""

import ast
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("kd", "storage", "search_spaces", "workers", "conductor", "reports")

# room: what it may import, of ours; a room or, with a dot, a module of it
MAY_IMPORT = {
    "kd": {"kd"},
    "storage": {"kd", "storage"},
    "search_spaces": {
        "kd.recipe",
        "kd.errors",
        "kd.names",
        "kd.optimizers",
        "kd.own_files",
        "kd.registry",
        "kd.seeds",
        "search_spaces",
    },
    "workers": {"kd", "storage", "workers"},
    "reports": {"kd", "storage", "reports"},
    "conductor": set(ROOMS),
    "study": {"conductor"},
}
# room: its folders and its modules outside of them, lowest first; each imports only what is before
# it, so nothing goes in a circle or upwards
FLOORS = {
    "kd": (
        *("errors", "seeds", "registry", "json_data", "schedules", "names", "dataset_names"),
        *("own_import", "own_files", "recipe", "model_rules", "protocol"),
        *(
            "ablations",
            "augmentations",
            "metrics",
            "data.reading",
            "data.sources",
            "data",
            "models.families",
            "models.libraries",
            "models",
            "losses.logits",
        ),
        *("losses.features", "losses", "optimizers", "training"),
    ),
    "storage": ("files", "studies"),
    "search_spaces": (
        "context",
        "changes",
        "checks",
        "changed_trial",
        "digest",
        "fitting",
        "plain",
        "scheduled",
        "constant",
        "adapting",
        "teachers",
        "space",
    ),
    "workers": ("machine", "device", "events", "jobs", "runners", "execute", "pools"),
    "reports": (
        *("statistics", "intervals", "wording", "read", "compute", "caveats", "findings"),
        *("draw", "draw.figures", "write"),
    ),
    "conductor": (
        *("display", "search.samplers", "search.pruners", "request"),
        *("search.promotion", "search", "stages"),
        *("study", "tools", "command_line.presets", "command_line"),
    ),
}
MOST_MODULES = 13  # in one folder; ten are the aim
LISTS = {"reports/draw/figures"}  # folders of members of a kind: the more the better
MOST_LINES = 330  # of a module
LONGER: dict[str, str] = {}  # module: the reason why it is longer

# room: libraries that none of its modules imports, not even inside a function
NEVER_IMPORTS = {
    "kd": {"optuna", "optuna_dashboard", "plotly", "pandas", "rich", "ray", "jinja2"},
    "storage": {"optuna_dashboard", "plotly", "pandas", "rich", "ray", "jinja2"},
    "search_spaces": {"torch", "plotly", "pandas", "rich", "ray"},
    "workers": {"optuna", "optuna_dashboard", "plotly", "pandas", "rich"},
    "reports": {"torch", "torchvision", "rich", "ray", "optuna_dashboard"},
    "conductor": {"torch", "torchvision", "ray", "plotly", "pandas"},
    "study": {"torch", "optuna", "plotly", "pandas", "rich", "ray"},
}


def modules() -> dict[str, Path]:
    """Return every module of ours by its dotted name."""
    paths = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    named = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    named["study"] = ROOT / "study.py"
    return {name.removesuffix(".__init__"): path for name, path in named.items()}


MODULES = modules()


def imports(path: Path) -> set[str]:
    """Return all that a file imports, anywhere in it, by dotted name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in named}
    return found


IMPORTS = {name: imports(path) for name, path in MODULES.items()}


def room(module: str) -> str:
    return module.partition(".")[0]


def ours(module: str) -> set[str]:
    """Return the modules of ours that a module imports."""
    return {name for name in IMPORTS[module] if room(name) in (*ROOMS, "study")}


def reached(module: str) -> set[str]:
    """Return the modules of ours that a module imports, also through others."""
    found, waiting = set(), [module]
    while waiting:
        for name in ours(waiting.pop()) & set(MODULES) - found:
            found.add(name)
            waiting.append(name)
    return found


def floor(module: str) -> str:
    """Return where a module is within its room: its folder, or itself outside of any folder."""
    path = MODULES[module].relative_to(ROOT)
    folder = path.parent.parts[1:]
    return ".".join(folder) or ("" if path.name == "__init__.py" else path.stem)


def test_every_room_is_there():
    assert {room(name) for name in MODULES} == {*ROOMS, "study"}
    assert set(MAY_IMPORT) == set(NEVER_IMPORTS) == {*ROOMS, "study"}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_what_its_room_may(name):
    allowed = MAY_IMPORT[room(name)]
    wrong = {found for found in ours(name) if not {found, room(found)} & allowed}
    assert wrong == set()
    assert ours(name) <= set(MODULES), "imports a module that is not there"


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_no_library_that_its_room_never_does(name):
    libraries = {room(found) for found in IMPORTS[name]}
    assert libraries & NEVER_IMPORTS[room(name)] == set()


def test_nothing_imports_the_door():
    assert not [name for name in MODULES if "study" in IMPORTS[name]]


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) == "workers"])
def test_workers_do_not_reach_optuna_through_others(name):
    through = {found for found in reached(name) if "optuna" in map(room, IMPORTS[found])}
    assert through == set()


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) == "reports"])
def test_reports_do_not_reach_torch_through_others(name):
    through = {found for found in reached(name) if "torch" in map(room, IMPORTS[found])}
    assert through == set()


def test_no_import_goes_in_a_circle():
    """Packages' own files count too: Python runs them first."""
    graph = {name: ours(name) & set(MODULES) for name in MODULES}
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_every_folder_and_every_module_outside_of_one_has_its_floor():
    """A new one is listed in `FLOORS` above all that it imports."""
    found = {name: {floor(one) for one in MODULES if room(one) == name} - {""} for name in ROOMS}
    assert found == {name: set(floors) for name, floors in FLOORS.items()}


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) in ROOMS and floor(name)])
def test_a_module_imports_nothing_from_a_floor_above(name):
    floors = FLOORS[room(name)]
    below = {"", *floors[: floors.index(floor(name)) + 1]}
    theirs = {found for found in ours(name) & set(MODULES) if room(found) == room(name)}
    assert {found for found in theirs if floor(found) not in below} == set()


def test_near_names_are_looked_for_in_one_place():
    assert [name for name in MODULES if "difflib" in IMPORTS[name]] == ["kd.registry"]


def test_no_folder_has_too_many_modules():
    folders = Counter(
        str(path.parent.relative_to(ROOT))
        for path in MODULES.values()
        if path.name != "__init__.py" and path.parent != ROOT
    )
    assert {name for name, count in folders.items() if count > MOST_MODULES} - LISTS == set()


def test_no_module_is_too_long_without_a_reason():
    lengths = {name: path.read_text().count("\n") for name, path in MODULES.items()}
    assert {name for name, lines in lengths.items() if lines > MOST_LINES} == set(LONGER)


LIGHT = {
    "conductor.command_line.cli": ("torch", "optuna", "plotly", "pandas", "rich", "numpy", "ray"),
    "conductor.command_line.commands": ("torch", "optuna", "plotly", "pandas", "numpy", "ray"),
    "conductor.request": ("torch", "optuna", "plotly", "pandas", "rich", "numpy", "ray"),
    "conductor.study": ("torch", "plotly", "pandas", "ray"),
    "reports.write.report": ("torch", "ray"),
    "storage.files.seal": ("torch", "optuna"),
    "storage.files.records": ("torch", "optuna"),
    "workers.pools.local": ("torch", "optuna"),
    "workers.pools.inline": ("torch", "optuna"),
}


@pytest.mark.parametrize("name", LIGHT)
def test_importing_a_module_leaves_heavy_libraries_out(name):
    code = f"import sys, {name}; print([one for one in {LIGHT[name]} if one in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.slow
def test_nothing_happens_when_modules_are_imported(tmp_path):
    """Nothing is printed, written, seeded or started."""
    names = sorted(set(MODULES) - {"workers.pools.on_ray"})
    code = (
        "import threading, torch\n"
        "state = torch.get_rng_state()\n"
        "threads = torch.get_num_threads()\n"
        f"import {', '.join(names)}\n"
        "assert torch.equal(torch.get_rng_state(), state)\n"
        "assert torch.get_num_threads() == threads\n"
        "assert threading.active_count() == 1\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []
