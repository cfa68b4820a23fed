"""What the tests share: where things lie, and running a script as a user does."""

import contextlib
import functools
import importlib.util
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
sys.path.insert(0, str(ROOT))
# as classifiers.py does, for tests that import TensorFlow first
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


@pytest.fixture(scope="session")
def shared():
    """The folder of weights, faces and clips that are not ours to ship."""
    if not SHARED.is_dir():
        pytest.skip(f"needs {SHARED}, which is not part of the project")
    return SHARED


@pytest.fixture(scope="session")
def noise():
    return np.random.default_rng(0).integers(0, 256, (4, 256, 256, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def gradient():
    y, x = np.mgrid[:256, :256]
    return np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)[None]


@pytest.fixture(scope="session")
def converted(shared, tmp_path_factory):
    """Folder of the authors' four weights, as weights/convert.py writes them."""
    from classifiers import load_classifier
    from weights import write_weights

    folder = tmp_path_factory.mktemp("converted")
    for path in sorted((shared / "published_weights").glob("*.h5")):
        write_weights(load_classifier(path), folder / path.stem, {"resampling": "nearest", "threshold": 0.5})
    return folder


def list_files():
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def run_script(script, *arguments, cwd=ROOT, status=0, process=False, root=ROOT):
    """Run a script of the repository as a user would, check its exit status, and return what it printed.

    In this process, by its main(argv), which is 20 times as fast; with `process`, or of another copy of
    the project (`root`), in one of its own.
    """
    if process or root != ROOT:
        command = [sys.executable, root / script, *arguments]
        done = subprocess.run(list(map(os.fspath, command)), cwd=cwd, capture_output=True, check=False)
        done.stdout, done.stderr = (
            text.decode(errors="surrogateescape") for text in (done.stdout, done.stderr)
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == status, f"status {done.returncode}: {done.stdout}{done.stderr}"
        return done
    before = os.getcwd(), sys.argv
    os.chdir(cwd)
    sys.argv = [script, *map(os.fspath, arguments)]
    try:
        return run_main(load_script(script), *arguments, status=status)
    finally:
        os.chdir(before[0])
        sys.argv = before[1]


@functools.cache
def load_script(script):
    """Return the main function of a script."""
    specification = importlib.util.spec_from_file_location(Path(script).stem, ROOT / script)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.main


def run_main(main, *arguments, status=0):
    """Call a script's main(argv) in this process, as run_script does in its own."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            found = main([os.fspath(argument) for argument in arguments])
        except SystemExit as ended:
            found = ended.code
    assert found == status, f"status {found}: {out.getvalue()}{err.getvalue()}"
    return subprocess.CompletedProcess(arguments, found, out.getvalue(), err.getvalue())
