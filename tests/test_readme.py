"""The READMEs are tests: every command in them runs, and the output shown is the output there is."""

import re
import shlex
import shutil

import pytest
from conftest import ROOT, list_files, run_script, start
from test_training import write_faces


def read_blocks(language, text=None):
    text = text or (ROOT / "README.md").read_text()
    blocks = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return [block for name, block in blocks if name == language]


def list_commands(name="README.md"):
    blocks = read_blocks("sh", (ROOT / name).read_text())
    return [line.strip() for block in blocks for line in block.splitlines()]


QUICK_START = [
    "pip install -r requirements.txt && python3 deepfakes_images.py",
    "pip install -r tests/requirements.txt && python3 -m pytest",
]


@pytest.fixture(scope="module")
def clone(shared, tmp_path_factory):
    """A copy of the project with what the README's reader is supposed to have: photos, data, a video."""
    folder = tmp_path_factory.mktemp("clone")
    for name in list_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(folder / "test_images", folder / "photos")
    shutil.copy(shared / "videos/clips/face_filling_frame_real.mp4", folder / "video.mp4")
    for label in ("real", "df"):
        clip = "inputs/forged_large_from_frame3" if label == "df" else "videos/clips/face_filling_frame_real"
        (folder / "videos" / label).mkdir(parents=True)
        shutil.copy(shared / f"{clip}.mp4", folder / "videos" / label / f"clip{len(label)}.mp4")
    shutil.copytree(shared / "published_weights", folder / "weights/authors")
    write_faces(folder / "data/training", videos=2, frames=2)
    write_faces(folder / "data/validation", videos=2, frames=2, first_video=5)
    return folder


def test_quick_start_is_what_ci_runs():
    quick = (ROOT / "README.md").read_text().partition("## Quick start")[2].partition("\n## ")[0]
    assert read_blocks("sh", quick)[0].splitlines() == QUICK_START
    assert "^## Quick start" in (ROOT / ".ci/run").read_text()


def test_every_other_command_runs(clone):
    commands = [*list_commands(), *list_commands("weights/README.md")]
    for command in commands:
        if command in QUICK_START:
            continue
        words = shlex.split(command)
        assert words[0] == "python3"
        if words[1] == "training/df_CNN.py" and "--resume" not in words:
            words += ["--steps", "1", "--batch-size", "4"]  # not the thousands of steps of a real training
        status = 3 if "--fail-on" in words else 0
        if words[1].startswith("weights/"):  # these write beside the weights
            process = start(clone / words[1], *words[2:], cwd=clone)
            assert process.communicate()[1] == ""
            assert process.returncode == 0
        else:
            run_script(words[1], *words[2:], cwd=clone, status=status)
    assert (clone / "output").is_dir()
    assert (clone / "results/report.html").is_file()


def test_the_python_block_runs(clone, monkeypatch, capsys):
    monkeypatch.chdir(clone)
    exec(read_blocks("python")[0], {})
    printed = capsys.readouterr().out
    assert "video.mp4 0." in printed
    assert len(re.findall(r"\[0\.\d+", printed)) == 4  # the scores of photos/real


def test_output_shown_is_the_output():
    done = run_script("deepfakes_images.py")
    assert done.stdout.strip().endswith(read_blocks("")[0].strip())
    assert len(re.findall(r"^[01]\.\d{4}  (?:real|deepfake) +test_images/", done.stdout, re.MULTILINE)) == 8
    assert re.search(r"^ +4 .* test_images/real$", done.stdout, re.MULTILINE)
    assert done.stderr == ""
