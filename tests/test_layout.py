"""The shape of the repository: what lies where, and who imports whom."""

import ast
import re
import subprocess
import sys

from conftest import ROOT, list_files

TOP = {
    "LICENSE", "README.md", "classifiers.py", "deepfakes_images.py", "extract_faces.py", "pipeline.py",
    "requirements.txt", "test_images", "tests", "training", "weights",
}  # fmt: skip
SCRIPTS = {
    "average", "convert", "deepfakes_images", "df_CNN", "download", "extract_faces", "make_figures",
    "make_test_images", "make_views", "visualize",
}  # fmt: skip


def test_top_level():
    assert {name.partition("/")[0] for name in list_files() if not name.startswith(".")} == TOP


def test_who_imports_whom():
    for name in list_files():
        if not name.endswith(".py"):
            continue
        imported = set()
        for node in ast.walk(ast.parse((ROOT / name).read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported |= {node.module.partition(".")[0], *(alias.name for alias in node.names)}
        if not name.startswith("tests/"):  # tests may look into a script
            assert not imported & SCRIPTS, f"{name} imports a script"
        if name in ("classifiers.py", "pipeline.py"):
            assert not imported & {"classifiers", "pipeline", "weights", "training"}, name
        if name.startswith("weights/"):
            assert "training" not in imported, name


def test_every_file_is_in_the_readmes_tree():
    readme = (ROOT / "README.md").read_text()
    tree = readme[readme.index("## Files") :]
    for name in list_files():
        if name.endswith(".py") and not re.match(r"tests/(test_|conftest)", name):
            assert re.search(rf"\b{re.escape(name.rpartition('/')[2])}\b", tree), name


IMPORT_ALL = """
import importlib, sys
import psutil  # needs resource on Linux alone
for name in ("fcntl", "grp", "pwd", "resource", "syslog", "termios"):
    sys.modules[name] = None  # importing it raises ImportError, as on Windows
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    importlib.import_module(name)
"""


def test_nothing_of_ours_needs_a_module_that_windows_lacks():
    modules = [
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in list_files()
        if name.endswith(".py") and not name.startswith("tests/")
    ]
    assert "pipeline" in modules
    command = [sys.executable, "-c", IMPORT_ALL, str(ROOT), *modules]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
