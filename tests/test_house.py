"""The house: top level, rooms, packaging, file sizes and what an import pulls in."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
TOP_LEVEL = {
    "pyproject.toml", "constraints.txt", "Makefile", "README.md", "LICENSE", "__init__.py", "__main__.py",
    "api.py", "ir", "frontends", "passes", "backends", "predictors", "tests", "bench",
}  # fmt: skip
ROOMS = ("frontends", "passes", "backends", "predictors")
#: Which rooms may import a heavy package at all.
ALLOWED = {
    "tvm": ("backends",),
    "tvm_ffi": ("backends",),
    "dgl": ("frontends/dgl", "predictors"),
    "tensorflow": ("frontends/tensorflow",),
    "keras": ("frontends/tensorflow",),
    "nir": ("frontends/nir",),
    "xgboost": ("predictors", "backends/tvm/ranking.py"),
    "rsatoolbox": ("frontends/families/spiking/representation.py",),
    "onnx": ("frontends/onnx", "backends/onnx"),
    "torch": ("ir/interpret.py", "ir/reference", "frontends", "passes", "backends", "predictors", "api.py"),
}


def tracked(pattern: str = "") -> list[Path]:
    """Files of the project: what git tracks, or everything but caches outside a checkout."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", pattern or "."],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout.split("\n")  # fmt: skip
        return [ROOT / line for line in listed if line and (ROOT / line).is_file()]
    except (subprocess.CalledProcessError, FileNotFoundError):
        return [p for p in ROOT.rglob("*") if p.is_file() and not any(x.startswith(".") for x in p.parts)]


SOURCES = [p for p in tracked() if p.suffix == ".py"]


def imports_of(path: Path) -> list[tuple[str, bool]]:
    """Absolute names that a file imports, and whether at its top level (not for typing only)."""
    found: list[tuple[str, bool]] = []

    def visit(node: ast.AST, top: bool) -> None:
        for child in ast.iter_child_nodes(node):
            inner = top and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                inner = False
            if isinstance(child, ast.Import):
                found.extend((alias.name, top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: imports are absolute in this project"
                found.append((child.module or "", top))
                found.extend((f"{child.module}.{alias.name}", top) for alias in child.names)
            visit(child, inner)

    visit(ast.parse(path.read_text()), True)
    return found


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def test_top_level_is_the_design() -> None:
    names = {p.relative_to(ROOT).parts[0] for p in tracked()}
    assert {n for n in names if not n.startswith(".")} == TOP_LEVEL


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_do_not_meet(path: Path) -> None:
    room = room_of(path)
    if room in ("tests", "bench", "api.py"):
        return
    for name, _ in imports_of(path):
        parts = name.split(".")
        if parts[0] != "plait" or len(parts) < 2:
            continue
        other = parts[1]
        if room == "ir":
            assert other == "ir", f"{path}: ir/ imports nothing of plait, but {name}"
        elif room in ROOMS:
            assert other in ("ir", room), f"{path}: {room}/ imports only ir/, but {name}"
        elif room == "__init__.py":
            assert other == "api", f"{path}: the face re-exports api only, but {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_packages_stay_in_their_rooms(path: Path) -> None:
    where = str(path.relative_to(ROOT))
    if room_of(path) in ("tests", "bench"):
        return
    for name, at_import in imports_of(path):
        package = name.split(".")[0]
        if package in ALLOWED:
            assert where.startswith(ALLOWED[package]) or not at_import, f"{where} imports {name}"
            if package in ("tvm", "dgl", "tensorflow", "xgboost"):
                assert where.startswith(ALLOWED[package]), f"{where} imports {name}"


def test_every_package_is_packaged() -> None:
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    listed = set(configuration["packages"])
    folders = {
        "plait." + ".".join(p.relative_to(ROOT).parent.parts)
        for p in SOURCES
        if p.name == "__init__.py" and room_of(p) in ("ir", *ROOMS)
    }
    assert listed == {"plait", *folders}
    data = {p.suffix for p in tracked() if room_of(p) in ROOMS and p.suffix not in (".py", ".md")}
    patterns = {Path(g).suffix for globs in configuration.get("package-data", {}).values() for g in globs}
    assert data <= patterns, f"files of {data - patterns} would be left out of a wheel"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_is_too_long(path: Path) -> None:
    lines = path.read_text().count("\n")
    assert lines <= 600, f"{path} has {lines} lines: split it by concept"


def test_import_is_light_and_fast() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import plait; seconds = time.perf_counter() - start; "
        "heavy = [m for m in ('torch', 'tvm', 'dgl', 'xgboost', 'tensorflow', 'onnx') if m in sys.modules]; "
        "print(seconds, heavy)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    seconds = min(float(run.stdout.split()[0]) for run in runs)
    assert runs[0].stdout.split(maxsplit=1)[1].strip() == "[]"
    assert seconds < 1.0


def test_no_pickle() -> None:
    for path in SOURCES:
        if room_of(path) in ("ir", *ROOMS):
            names = {name.split(".")[0] for name, _ in imports_of(path)}
            assert not names & {"pickle", "dill", "cloudpickle", "joblib"}, path
