"""The shape of the repository: its budget, what lies where, and who imports whom."""

import ast
import re

import pytest
from conftest import ROOT, list_files, run_script, start

import pipeline

TOP = {
    "LICENSE", "README.md", "classifiers.py", "deepfakes_images.py", "extract_faces.py", "pipeline.py",
    "requirements.txt", "test_images", "tests", "training", "weights",
}  # fmt: skip
OPTIONS = {
    "deepfakes_images.py": 16, "extract_faces.py": 12, "training/df_CNN.py": 21, "training/calibrate.py": 16,
    "training/visualize.py": 16, "weights/download.py": 16,
}  # fmt: skip
SCRIPTS = {name.rpartition("/")[2].removesuffix(".py") for name in OPTIONS}
SCRIPTS |= {"make_figures", "make_test_images"}
DOCUMENTS = {"README.md": 200, "weights/README.md": 90, "training/README.md": 80, "tests/README.md": 90}


def count_lines(name):
    return len((ROOT / name).read_text().splitlines())


def list_code(tests=False):
    return [name for name in list_files() if name.endswith(".py") and name.startswith("tests/") == tests]


def test_budget_of_lines():
    """Before something is added, something else goes."""
    lines = {name: count_lines(name) for name in list_code()}
    assert lines.pop("pipeline.py") <= 1050
    assert {name: number for name, number in lines.items() if number > 260} == {}
    assert sum(lines.values()) + count_lines("pipeline.py") <= 4400
    assert sum(count_lines(name) for name in list_code(tests=True)) <= 4200
    assert {name: count_lines(name) for name, most in DOCUMENTS.items() if count_lines(name) > most} == {}


@pytest.mark.parametrize("script", OPTIONS)
def test_help_has_an_example_and_few_options(script):
    shown = run_script(script, "--help").stdout
    options = set(re.findall(r"^ +(?:-\w, )?(--[\w-]+)", shown, re.MULTILINE)) - {"--help", "--version"}
    assert 0 < len(options) <= OPTIONS[script]
    assert f"python3 {script}" in shown
    assert run_script(script, "--version").stdout.endswith(f" {pipeline.VERSION}\n")


def test_who_imports_whom():
    for name in list_code() + list_code(tests=True):
        imported, modules = set(), set()
        for node in ast.walk(ast.parse((ROOT / name).read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        imported = {part for module in modules for part in module.split(".")}
        if not name.startswith("tests/"):  # tests may look into a script
            assert not imported & SCRIPTS, f"{name} imports a script"
        if name in ("classifiers.py", "pipeline.py"):
            assert not imported & {"classifiers", "pipeline", "weights", "training"}, name
        if name.startswith("weights/"):
            assert "training" not in imported, name
        if name == "weights/__init__.py":
            assert not any(module.startswith("weights") for module in modules)


def test_every_file_is_in_the_readmes_tree():
    assert {name.partition("/")[0] for name in list_files() if not name.startswith(".")} == TOP
    tree = (ROOT / "README.md").read_text().partition("## Files")[2]
    for name in list_code() + list_code(tests=True):
        if not re.match(r"tests/(test_|conftest)|.*__init__", name):
            assert re.search(rf"\b{re.escape(name.rpartition('/')[2])}\b", tree), name


IMPORT_ALL = """
import importlib, sys
for name in ("fcntl", "grp", "pwd", "syslog", "termios"):
    sys.modules[name] = None  # importing it raises ImportError, as on Windows
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    importlib.import_module(name)
"""


def test_nothing_of_ours_needs_a_module_that_windows_lacks():
    modules = [re.sub(r"(/__init__)?\.py$", "", name).replace("/", ".") for name in list_code()]
    assert "pipeline" in modules
    process = start("-c", IMPORT_ALL, ROOT, *modules)
    _, error = process.communicate()
    assert process.returncode == 0, error[-2000:]
