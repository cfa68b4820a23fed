"""What the tests share: where things lie, and running a script as a user does."""

import contextlib
import csv
import importlib
import io
import json
import os
import subprocess
import sys
import time
from unittest import mock

import numpy as np
import pytest
from PIL import Image

# as classifiers.py does, for tests that import TensorFlow first
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from clips import ROOT, draw_number, film, find_landmarks, forge_face, open_portrait, write_clip

import pipeline

SHARED = ROOT.parent / "shared"
os.chdir(ROOT)


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
def portrait():
    """A portrait to film, uint8 RGB: larger than its face."""
    return open_portrait()


@pytest.fixture(scope="session")
def photo():
    """A face crop as a Pillow image."""
    return Image.open(ROOT / "test_images/real/hopper.png").convert("RGB")


@pytest.fixture(scope="session")
def films(portrait, tmp_path_factory):
    """Folder of videos: one person, real; one, forged; two side by side, the right one forged; none."""
    folder = tmp_path_factory.mktemp("clips")
    other = open_portrait("obama")
    forged = forge_face(other, find_landmarks(other))
    people = {"real/obama": (None, other), "df/forged": (None, forged), "pair": (portrait, forged)}
    for name, (left, right) in people.items():
        (folder / name).parent.mkdir(exist_ok=True)
        frames = []
        for i in range(8):
            frame = film(right, pipeline.Pose(480 - 3 * i, 240, 190, i))
            if left is not None:
                frame = np.concatenate(
                    (film(left, pipeline.Pose(160, 240, 140, 0))[:, :320], frame[:, 320:]), 1
                )
            frames.append(frame)
        write_clip(folder / f"{name}.mp4", frames, options={"crf": "10"})
    write_clip(folder / "nobody.mp4", [draw_number(i) for i in range(5)])
    return folder


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def read_table(path):
    """Return the rows of a CSV file, which must begin with the mark that spreadsheets need."""
    with path.open(encoding="utf-8", newline="") as file:
        assert file.read(1) == "\ufeff"
        return list(csv.DictReader(file))


def read_rows(folder):
    """Return {path: row} of the table of files in a folder of results."""
    return {row["path"]: row for row in read_table(folder / "results.csv")}


def read_items(folder):
    """Return the rows of files and faces in results.json."""
    return json.loads((folder / "results.json").read_text())["items"]


def list_files():
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def run_script(script, *arguments, cwd=".", status=0):
    """Run a script of the repository as a user would, check its exit status, and return what it printed.

    In this process, by its main(argv), which is 20 times as fast.
    """
    main = importlib.import_module(script.removesuffix(".py").replace("/", ".")).main
    words, out, err = [os.fspath(argument) for argument in arguments], io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(cwd))
        stack.enter_context(mock.patch.object(sys, "argv", [script, *words]))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        try:
            found = main(words)
        except SystemExit as ended:
            found = ended.code
    assert found == status, f"status {found}: {out.getvalue()}{err.getvalue()}"
    return subprocess.CompletedProcess(words, found, out.getvalue(), err.getvalue())


def start(*command, full_at=None, **options):
    """Start a script or code in a Python of its own; no file may grow beyond `full_at` bytes."""
    words = ["prlimit", f"--fsize={full_at}"] if full_at else []
    words += [sys.executable, *map(os.fspath, command)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(words, **{"cwd": ROOT, **pipes, **options})


def wait_for(process, folder, pattern):
    """Wait until a running process has written a file."""
    deadline = time.monotonic() + 240
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
