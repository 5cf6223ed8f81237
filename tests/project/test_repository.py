"""The rules that the whole repository keeps: lint, format, sizes, arrows, shell scripts."""

import ast
import functools
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duplicates
import pytest
import setuptools

import flags

ROOT = Path(__file__).resolve().parents[2]
FUNCTION_LINES = 70
ROOT_SCRIPT_LINES = 170
WHOLE = ("absl.flags", "data.common")
LINE_LENGTH = 100  # ruff does not look at shell scripts


def tracked(*patterns: str) -> list[Path]:
    """The project's files: all that git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    paths = {ROOT / line for line in listing.stdout.splitlines()}
    return sorted(path for path in paths if path.is_file())


def run(*command: str | Path) -> None:
    """Runs a tool of this environment and fails with its output."""
    result = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def parsed(paths: list[Path]) -> Iterator[tuple[Path, ast.Module]]:
    for path in paths:
        yield path, tree_of(path)


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> set[str]:
    """Dotted names of all that is imported anywhere in a file."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imports(tree: ast.Module) -> set[str]:
    """First names of all modules imported anywhere in a file; `absl.flags`, `data.common` whole."""
    return {
        next((whole for whole in WHOLE if f"{name}.".startswith(f"{whole}.")), name.split(".")[0])
        for name in imported(tree)
    }


def test_ruff_check():
    run(sys.executable, "-m", "ruff", "check", *tracked("*.py"))


def test_ruff_format():
    run(sys.executable, "-m", "ruff", "format", "--check", *tracked("*.py"))


def test_no_duplicate_blocks():
    pairs = duplicates.find_duplicates(tracked("*.py", "*.sh", "*.sbatch"))
    assert [
        f"{first.path.relative_to(ROOT)}:{first.number} and "
        f"{second.path.relative_to(ROOT)}:{second.number}: {first.text}"
        for first, second in pairs
    ] == []


def test_duplicates_are_found(tmp_path):
    block = [f"value_{number} = {number}" for number in range(duplicates.BLOCK_LINES)]
    first, second, third = (tmp_path / name for name in ("a.py", "b.py", "c.py"))
    first.write_text("\n".join(["import os", *block, "first = 1"]))
    second.write_text("\n".join(["if True:", "", *(f"    {line}" for line in block), "second = 2"]))
    third.write_text("\n".join(block[1:]))  # a line short
    (pair,) = duplicates.find_duplicates([first, second, third])
    assert [(line.path.name, line.number) for line in pair] == [("a.py", 2), ("b.py", 3)]


def test_functions_are_short():
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1}"
        for path, tree in parsed(tracked("*.py"))
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno >= FUNCTION_LINES
    ]
    assert long == []


def test_root_scripts_are_short():
    scripts = [path for path in tracked("*.py") if path.parent == ROOT and path.name != "flags.py"]
    sizes = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in scripts}
    assert {name: size for name, size in sizes.items() if size > ROOT_SCRIPT_LINES} == {}


# They parse the flags for the root scripts, which hand plain values to everything else.
KNOW_FLAGS = {"data/common/flag_groups.py", "data/common/script.py"}


@pytest.mark.parametrize(("package", "unknown"), [("data", {"models"}), ("models", set())])
def test_arrows_point_one_way(package, unknown):
    """data/ knows nothing of models/, and neither of them flags or root scripts."""
    roots = {path.stem for path in tracked("*.py") if path.parent == ROOT}
    wrong = {}
    for path, tree in parsed(tracked(f"{package}/*.py")):
        name = str(path.relative_to(ROOT))
        forbidden = unknown | roots | (set() if name in KNOW_FLAGS else {"absl.flags"})
        if imports(tree) & forbidden:
            wrong[name] = sorted(imports(tree) & forbidden)
    assert wrong == {}


@pytest.mark.parametrize(
    ("top", "layers"),
    [
        ("data", ["common", "lists", "tfrecords", "dense", "input download imagenet", "outputs"]),
        (
            "models",
            [
                "models",
                "distributed checkpoints",
                "metrics",
                "training prediction export detection segmentation",
            ],
        ),
    ],
)
def test_packages_know_only_those_before_them(top, layers):
    """In data/ the modules outside all packages are scripts; in models/ they are the network."""
    height = {package: level for level, names in enumerate(layers) for package in names.split()}
    packages = {path.parent.name for path in tracked(f"{top}/*/__init__.py")}
    assert packages == height.keys() - {top}
    for path, tree in parsed(tracked(f"{top}/*.py")):
        own = path.parent.name
        if own not in height:
            continue  # a script
        for name in imported(tree):
            first, second, *_ = [*name.split("."), ""]
            if first == top:
                used = second if second in packages else top
                allowed = used == own or height.get(used, len(layers)) < height[own]
                assert allowed, f"{path} uses {name}"


def test_imports_inside_functions_exist():
    """Few tests reach some of them, as those of a benchmark's workers."""
    files = dict(parsed(tracked("*.py")))
    own = {".".join(p.relative_to(ROOT).with_suffix("").parts): tree for p, tree in files.items()}
    missing = []
    for path, tree in files.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in own:
                there = names_of(own[node.module])
                wrong = [alias.name for alias in node.names if alias.name not in there]
                missing += [f"{path}:{node.lineno}: {name}" for name in wrong]
    assert missing == []


@functools.cache
def names_of(module: ast.Module) -> set[str]:
    """What can be imported from a module: what it defines, assigns or imports."""
    found = set()
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).split(".")[0])
    return found


def test_setup_installs_requirements_alone(monkeypatch):
    """`data` and `models` in site-packages would collide with everybody's own folders."""
    asked = {}
    monkeypatch.setattr(setuptools, "setup", lambda **options: asked.update(options))
    runpy.run_path(str(ROOT / "setup.py"))
    assert (asked["packages"], asked["py_modules"]) == ([], [])
    assert any(name.startswith("numpy>=") for name in asked["install_requires"])


def test_no_commented_out_code():
    run(sys.executable, "-m", "ruff", "check", "--select", "ERA001", *tracked("*.py"))


def test_every_package_module_has_a_sentence():
    missing = [
        str(path.relative_to(ROOT))
        for path, tree in parsed(tracked("*.py"))
        if tree.body and not ast.get_docstring(tree)
    ]
    assert missing == []


def shell_scripts() -> list[Path]:
    return [*tracked("*.sh", "*.sbatch"), ROOT / ".ci" / "run"]


def test_shell_scripts_stop_at_errors():
    loose = [
        str(path.relative_to(ROOT))
        for path in shell_scripts()
        if not re.search(r"^set -euo pipefail$", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert loose == []


@pytest.mark.slow
def test_shell_scripts_pass_shellcheck():
    for script in shell_scripts():
        run("bash", "-n", script)
    shellcheck = Path(sys.executable).parent / "shellcheck"
    run(shellcheck, "--external-sources", *shell_scripts())


def test_shell_lines_fit():
    long = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in shell_scripts()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if len(line) > LINE_LENGTH
    ]
    assert long == []


def test_scripts_can_be_started():
    """Whatever has a `#!` line is executable, and every shell script but a sourced one has one."""
    sourced = ("environment.sh", "job.sh", "mpirun.sh")
    scripts = [path for path in shell_scripts() if path.name not in sourced]
    assert [path.name for path in scripts if not path.read_bytes().startswith(b"#!")] == []
    assert [path.name for path in scripts if not path.stat().st_mode & 0o100] == []


# Beginning of a word, as a regular expression -> what stands in its place.
REPLACED_WORDS = {
    r"beside\b": "next to",
    "body_rate": "backbone_lr_mult",
    "colour": "color",
    "goes on": "continues",
    "grey": "gray",
    "head_rate": "head_lr_mult",
    "labelled": "labeled",
    "licence": "license",
    "mend": "fix",
    "misspelt": "misspelled",
    "neighbour": "neighbor",
    "normalis": "normaliz",
    "optimiser": "optimizer",
    "picture": "image",
    r"[a-z_]+_share\b": "fraction, or shard",
    r"tagged\b": "labeled",
    r"tell(s?)\b(?!\()": "say",
    r"told\b": "said",
}
# They still work: flags of the root scripts and of the scripts below data/.
FORMER_FLAGS = (*flags.ALIASES, "--neighbours", "--val_share", "--test_share")


def test_one_word_for_one_thing():
    """American spelling, and the field's words; see docs/architecture.md."""
    pattern = re.compile(rf"(?<![a-z])({'|'.join(REPLACED_WORDS)})", re.IGNORECASE)
    found = []
    for path in tracked("*.py", "*.sh", "*.md", "*.sbatch"):
        text = path.read_text(encoding="utf-8")
        for former in FORMER_FLAGS:
            text = text.replace(former, "")
        if path != Path(__file__):
            found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in pattern.finditer(text)]
    assert found == []
