"""The repository's own rules: pages, settings and code agree with each other."""

import argparse
import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from conductor.command_line import cli
from conductor.command_line.options import make_request
from conductor.command_line.presets import PRESETS
from kd import VERSION
from kd.errors import RetortError

ROOT = Path(__file__).parents[1]
ROOMS = ("kd", "storage", "search_spaces", "workers", "conductor", "reports")
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
METADATA = PROJECT["project"]
README = (ROOT / "README.md").read_text()
FOREIGN_FLAGS = {  # of pip and Optuna, of Ray, of Slurm
    *("--editable", "--study-name"),
    *("--address", "--block", "--head", "--port"),
    *("--exclude", "--gpus-per-node", "--nodelist", "--nodes", "--ntasks", "--ntasks-per-node"),
    *("--overlap", "--signal", "--time"),
}


def modules(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def tracked() -> list[str]:
    """Names of all files that git keeps. Skips where the repository is not a git checkout."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        [git, "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


def page_ids(pages: Iterable[Path]) -> list[str]:
    return [page.name for page in pages]


def rows(text: str) -> list[str]:
    """First cells, in backquotes, of all tables of a page."""
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


def test_the_readme_leads_to_every_page() -> None:
    pages = {str(page.relative_to(ROOT)) for page in PAGES} - {"README.md"}
    assert pages <= set(re.findall(r"\]\(([^)#]+)", README))


@pytest.mark.parametrize("page", PAGES, ids=page_ids(PAGES))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text())
    dead = [
        f"{link}#{anchor}"
        for link, anchor in links
        if "://" not in link
        and (
            not (target := page.parent / link if link else page).exists()
            or (anchor and anchor not in anchors(target.read_text()))
        )
    ]
    assert dead == []


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as a viewer of Markdown makes them."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=page_ids(PAGES))
def test_files_and_tests_named_on_a_page_exist(page: Path) -> None:
    folders = "|".join((*ROOMS, "tests", "docs"))
    named = re.findall(rf"`((?:{folders})/[\w./-]+)(?:::(\w+))?`", page.read_text())
    dead = [
        f"{path}::{function}"
        for path, function in named
        if not (ROOT / path).exists()
        or (function and f"def {function}(" not in (ROOT / path).read_text())
    ]
    assert dead == []


def test_pages_named_in_the_code_exist() -> None:
    for path in modules(*ROOMS, "tests"):
        for name in re.findall(r"docs/[\w-]+\.md", path.read_text()):
            assert (ROOT / name).is_file(), f"{path.name} names {name}"


def test_version_is_that_of_the_newest_entry_of_the_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## \[([^]]+)\]", changelog, re.MULTILINE)
    assert newest is not None
    assert newest[1] == VERSION


def commands(page: Path) -> list[str]:
    """Every `python study.py …` of a page, in a block or in a line, without its comment."""
    text = page.read_text().replace("\\\n", " ")
    found = re.findall(r"(?<![\w/])python study\.py([^`\n#]*)", text)
    return [" ".join(line.split()) for line in found]


COMMANDS = [
    pytest.param(line, id=f"{page.name}: {line or 'alone'}")
    for page in PAGES
    for line in dict.fromkeys(commands(page))
]


def take(arguments: list[str]) -> None:
    """Raise what the command line raises; names and ranges of a study are checked too."""
    options = cli.read_options(arguments)
    if options.command == "run":
        make_request(options)


@pytest.mark.parametrize("line", COMMANDS)
def test_command_on_a_page_is_one_that_the_command_line_takes(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(line)
    for name in re.findall(r"([\w./]+\.py):\w", line):
        Path(name).touch()  # a model of one's own is named by what is in its file
    for name in ("study.toml", *re.findall(r"[\w./]+\.safetensors", line)):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    if "--help" not in arguments:
        take(arguments)
        return
    with pytest.raises(SystemExit) as ended:
        take(arguments)
    assert ended.value.code == 0


@pytest.mark.parametrize("line", ["--temperature 4", "--preset mnist", "--epochs 0", "runn"])
def test_command_that_does_not_exist_would_be_noticed(line: str) -> None:
    with pytest.raises((argparse.ArgumentError, RetortError)):
        take(line.split())


def known_flags() -> set[str]:
    found = {"--help"}
    for _, groups in cli.COMMANDS.values():
        parser = argparse.ArgumentParser()
        for add_flags in groups:
            add_flags(parser)
        found |= set(parser._option_string_actions)
    return found


@pytest.mark.parametrize("page", PAGES, ids=page_ids(PAGES))
def test_every_flag_on_a_page_exists(page: Path) -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", page.read_text()))
    assert named - known_flags() - FOREIGN_FLAGS == set()


def test_the_page_of_studies_names_every_preset_and_every_command() -> None:
    page = (ROOT / "docs" / "studies.md").read_text()
    assert [name for name in PRESETS.names if f"`{name}`" not in page] == []
    assert [name for name in cli.COMMANDS if f"study.py {name}" not in page] == []


def test_targets_of_make_named_on_a_page_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    texts = [page.read_text() for page in (*PAGES, ROOT / ".ci" / "run")]
    named = [re.findall(r"(?:`|^ *|directory )make ([a-z]+)", text, re.MULTILINE) for text in texts]
    assert {"study", "test", "check"} <= {name for names in named for name in names} <= targets


def test_no_page_states_that_the_test_split_is_opened_once() -> None:
    """Every confirmation run opens it, and the teacher's test."""
    for path in (*PAGES, *modules(*ROOMS), *(ROOT / "reports").glob("*.j2")):
        text = " ".join(path.read_text().split())
        assert not re.search(r"open\w* the test split once|test split (is|was) opened once", text)
        assert "these runs alone see the test" not in text
        assert "the only ones that see the test" not in text


def test_figures_of_studies_in_the_readme_are_those_of_the_results() -> None:
    """A figure comes from a recorded run, and from the same one as its neighbours."""
    results = (ROOT / "docs" / "results.md").read_text().replace("−", "-")
    recorded = README.split("\n## Recorded studies\n")[1].split("\n## ")[0]
    figures = re.findall(r"-?\d+\.\d+", re.sub(r"\([^)]*\)", "", recorded))
    assert [figure for figure in figures if figure not in results] == []
    [seconds, parameters] = re.findall(
        r"the default study \| about (\d+ s): .* with ([\d,]+) parameters", README
    )[0]
    digits = results.split("\n## Digits\n")[1].split("\n## ")[0]
    assert {seconds, parameters} <= set(re.findall(r"\d+ s\b|\d,\d+", digits))


def named_requirements(listed: Iterable[str]) -> dict[str, SpecifierSet]:
    found = [Requirement(text) for text in listed]
    return {canonicalize_name(one.name): one.specifier for one in found}


def environment() -> list[Any]:
    content: dict[str, list[Any]] = yaml.safe_load((ROOT / "environment.yml").read_text())
    return content["dependencies"]


def test_conda_installs_what_pip_installs() -> None:
    [listed] = [part["pip"] for part in environment() if isinstance(part, dict)]
    *packages, project = listed
    assert project == "--editable ."
    assert named_requirements(packages) == named_requirements(METADATA["dependencies"])


def test_one_range_of_python_holds_everywhere() -> None:
    wanted = SpecifierSet(METADATA["requires-python"])
    [conda] = [part for part in environment() if str(part).startswith("python")]
    assert Requirement(conda).specifier == wanted
    [low, high] = re.findall(r"\((3, \d+)\)", (ROOT / "Makefile").read_text())
    lowest = low.replace(", ", ".")
    assert SpecifierSet(f">={lowest},<{high.replace(', ', '.')}") == wanted
    assert PROJECT["tool"]["mypy"]["python_version"] == lowest
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{lowest.replace('.', '')}"


def imported(paths: Iterable[Path]) -> set[str]:
    """Distributions, by canonical name, whose modules the files import, at any depth."""
    names = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    theirs = names - sys.stdlib_module_names - {*ROOMS, "tests"}
    theirs -= {path.stem for path in modules("tests")}
    known = packages_distributions()
    return {canonicalize_name(known[name][0]) for name in theirs if name != "study"}


def test_what_the_code_imports_is_what_is_declared() -> None:
    declared = named_requirements(METADATA["dependencies"])
    library = ROOT / "kd" / "models" / "libraries" / "timm.py"  # alone imports this extra
    others = [module for module in modules(*ROOMS) if module != library]
    assert imported(others) == set(declared) - {"scikit-learn"}  # its digits are a file
    extra = named_requirements(METADATA["optional-dependencies"]["timm"])
    assert imported([library]) - set(declared) == set(extra)


def test_what_the_tests_import_is_declared() -> None:
    extras = METADATA["optional-dependencies"]["dev"]
    declared = named_requirements([*METADATA["dependencies"], *extras])
    assert imported(modules("tests")) <= set(declared)


def test_the_design_gives_a_reason_for_every_dependency() -> None:
    design = (ROOT / "docs" / "design.md").read_text()
    section = design.split("\n## Dependencies\n")[1].split("\n## ")[0]
    assert set(rows(section)) == set(named_requirements(METADATA["dependencies"]))


def test_extras_named_in_messages_exist() -> None:
    extras = set(METADATA["optional-dependencies"])
    texts = [path.read_text() for path in (*modules(*ROOMS), *PAGES, ROOT / "Makefile")]
    named = {name for text in texts for name in re.findall(r"'\.\[([a-z]+)\]'", text)}
    assert {"dev"} <= named <= extras


def test_hooks_run_the_tools_of_the_project() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert {repo["repo"] for repo in config["repos"]} == {"local"}
    developers = named_requirements(METADATA["optional-dependencies"]["dev"])
    for hook in hooks:
        tool = re.match(r"\.venv/bin/([a-z-]+)", hook["entry"])
        assert tool is not None
        assert tool[1] in developers


def test_packages_that_are_installed_are_all_there_are() -> None:
    folders = {path.parent for path in modules(*ROOMS) if path.name == "__init__.py"}
    assert folders == {path.parent for path in modules(*ROOMS)}
    include = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    assert sorted(include) == sorted(f"{room}*" for room in ROOMS)


def test_every_file_that_is_not_python_is_installed() -> None:
    packages = PROJECT["tool"]["setuptools"]["package-data"]
    found = [path for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_file()]
    files = {path for path in found if path.suffix not in (".py", ".pyc")}
    assert files == {
        path
        for package, patterns in packages.items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }


def test_ci_can_be_run() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    bash = shutil.which("bash")
    assert bash is not None
    subprocess.run([bash, "-n", str(script)], check=True)


def test_no_file_names_a_folder_of_one_machine() -> None:
    for name in tracked():
        path = ROOT / name
        if path.suffix in (".png", ".safetensors", ".gz"):
            continue
        found = re.search(r"(?<![\w.*}])/(?:work|root|opt|Users)/\w+", path.read_text())
        assert found is None, f"{name} names {found and found[0]}"
