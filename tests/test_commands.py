"""The scoring command as a user runs it: rows, exit statuses, names, disks, processes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import clips
import numpy as np
import pytest
from conftest import ROOT, read_items, read_rows, run_script, start, wait_for
from PIL import Image

import deepfakes_images
import pipeline
from classifiers import load_classifier
from weights import write_weights
from weights.download import PUBLISHED
from weights.scoring import score

SCRIPT = "deepfakes_images.py"
ROW = re.compile(r"^(\d\.\d{4})  (real|deepfake) +(\S+)$", re.MULTILINE)


@pytest.mark.parametrize("form", ["h5", "tflite"])
def test_authors_weights_score_their_images_as_published(shared, tmp_path, form):
    weights = shared / "published_weights/Meso4_DF.h5"
    if form == "tflite":
        write_weights(load_classifier(weights), tmp_path / "x", PUBLISHED)
        weights = tmp_path / "x.tflite"
    done = run_script(SCRIPT, shared / "published_images", "--weights", weights)
    golden = json.loads((shared / "golden/scores.json").read_text())["scores"]["Meso4_DF"]["nearest"]
    rows = {path.partition("published_images/")[2]: value for value, _, path in ROW.findall(done.stdout)}
    assert rows == {path: f"{value:.4f}" for path, value in golden.items()}
    assert "Right per image: all 1.000, df 1.000, real 1.000, balanced 1.000, AUC 1.000" in done.stdout


def test_only_what_is_needed_is_imported():
    code = (
        "import sys, deepfakes_images\n"
        "assert not deepfakes_images.main([])\n"
        "print({'tensorflow', 'keras', 'classifiers', 'face_recognition', 'matplotlib'} & set(sys.modules))\n"
    )
    assert start("-c", code).communicate()[0].endswith("set()\n")


def test_rows_of_videos(films, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    done = run_script(SCRIPT, films, tmp_path, "--weights", "Meso4_DF", status=1)
    lines = done.stdout.splitlines()
    assert lines[0] == " score  faces  %deepfake  verdict    file"
    found = {line.split()[-1].rpartition("/")[2]: line.split()[1:4] for line in lines[1:6]}
    assert found["obama.mp4"] == ["8", "0.0", "real"]
    assert found["forged.mp4"] == ["8", "100.0", "deepfake"]
    assert found["broken.mp4"] == ["-", "-", "error"]
    assert f"skipped {tmp_path}/broken.mp4: not a readable video" in done.stderr
    for line in ("Classified as deepfake/f2f: 66.7 % (2 of 3 videos)", "No face found: 1 of 5 videos",
                 "Could not be read: 1 of 5 videos",
                 "Only the largest face in each frame was scored; --everyone scores all faces."):  # fmt: skip
        assert line in lines


def test_alarms(films, tmp_path):
    forged, real = films / "df/forged.mp4", films / "real/obama.mp4"
    done = run_script(SCRIPT, forged, real, "--quiet", "--fail-on", "deepfake", status=3)
    assert re.fullmatch(rf"0\.\d{{4}}  deepfake   {forged} \(looks like \w+\)\n", done.stdout)
    assert done.stderr == ""
    assert run_script(SCRIPT, real, "--weights", "Meso4_DF", "--quiet", "--fail-on", "uncertain").stdout == ""
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    done = run_script(SCRIPT, real, tmp_path, "--quiet", status=1)
    assert re.fullmatch(r"skipped .*broken\.mp4: not a readable video.*\n", done.stderr)
    run_script(SCRIPT, forged, tmp_path, "--quiet", "--fail-on", "deepfake", status=3)  # 3 wins over 1


def test_many_images_get_no_row_each(tmp_path):
    for number in range(50):
        shutil.copy(ROOT / "test_images/real/obama.png", tmp_path / f"{number}.png")
    shutil.copy(ROOT / "test_images/df/obama.png", tmp_path / "forged.png")
    done = run_script(SCRIPT, tmp_path)
    assert ROW.findall(done.stdout) == [("0.0000", "deepfake", f"{tmp_path}/forged.png")]
    assert "Rows only for images called deepfake, at most 50: --output lists all images." in done.stdout


def test_crops_that_are_odd_say_so(tmp_path, portrait):
    face = pipeline.read_image(ROOT / "test_images/real/obama.png")
    pipeline.write_crop(pipeline.resize_face(face, "bilinear", 60), tmp_path / "a.png")
    said = "a.png (small, unlike the faces that the weights were tested on)"
    assert said in run_script(SCRIPT, tmp_path).stdout
    Image.fromarray(face // 8).convert("L").save(tmp_path / "a.png")
    assert "a.png (dark and black and white, unlike the" in run_script(SCRIPT, tmp_path).stdout
    Image.fromarray(portrait[:, :300]).save(tmp_path / "a.png")
    assert "a.png (not square, so hardly" in run_script(SCRIPT, tmp_path / "a.png", "--crops").stdout


def make_bad_images(folder, photo):
    """Write images that cannot be scored; return {name: what the reason must say}."""
    photo.save(folder / "whole.jpg")
    whole = (folder / "whole.jpg").read_bytes()
    (folder / "whole.jpg").unlink()
    for name, content in (("truncated.jpg", whole[: len(whole) // 2]), ("header-only.jpg", whole[:30]),
                          ("text.jpg", b"not an image at all"), ("empty.png", b"")):  # fmt: skip
        (folder / name).write_bytes(content)
    for name, *kind in (("pixel.png", "RGB", (1, 1)), ("float.tif", "F", (64, 64)),
                        ("bomb.png", "L", (20_000, 20_000))):  # fmt: skip
        Image.new(*kind).save(folder / name)
    (folder / "dangling.png").symlink_to(folder / "gone.png")
    os.mkfifo(folder / "pipe.jpg")
    return {
        "truncated.jpg": "truncated", "header-only.jpg": "image|Truncated", "text.jpg": "not an image",
        "empty.png": "empty file", "dangling.png": "No such file", "pipe.jpg": "not a regular file",
        "pixel.png": "1x1 pixels: must be at least 16", "float.tif": "pixels of unknown range",
        "bomb.png": "20000x20000 pixels",
    }  # fmt: skip


def test_bad_images_in_a_batch_are_reported_and_the_rest_scored(tmp_path, photo):
    reasons = make_bad_images(tmp_path, photo)
    photo.save(tmp_path / "good.png")
    pipeline.detect_faces(np.zeros((64, 64, 3), np.uint8))  # face_recognition would have Pillow accept them
    done = run_script(SCRIPT, tmp_path, "--output", tmp_path / "out", status=1)
    items = {Path(item["path"]).name: item for item in read_items(tmp_path / "out")}
    assert set(items) == {*reasons, "good.png"}
    for name, reason in reasons.items():
        assert re.search(reason, items[name]["error"])
        assert f"/{name}: " in done.stderr
    assert f"Could not be read: {len(reasons)} of {len(items)}" in done.stdout


NAMES = [
    "a space.png", "'single'.png", 'double".png', "new\nline.png", "-leading.png", "--help.png",
    "$(touch x).png", "%d.png", "back\\slash.png", "ünï中.png", "\x1b[31m.png", "w" * 251 + ".png",
    os.fsdecode(b"\xff\xfe.png"),
]  # fmt: skip


def test_odd_names_are_scored_like_others(tmp_path, photo):
    folder = tmp_path / "-f\n o"
    folder.mkdir()
    photo.save(tmp_path / "plain.png")
    for name in NAMES:
        shutil.copy(tmp_path / "plain.png", folder / name)
    done = run_script(SCRIPT, "--output", "out", "--", "-f\n o", "plain.png", cwd=tmp_path)
    assert sum("real      " in line and ".png" in line for line in done.stdout.splitlines()) == len(NAMES) + 1
    assert "\x1b" not in done.stdout
    rows = read_rows(tmp_path / "out")
    assert len(rows) == len(NAMES) + 1
    assert len({row["score"] for row in rows.values()}) == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--threshold", "1.5"], "--threshold must be from 0 to 1, not 1.5"),
        (["--frames", "0"], "--frames: must be a whole number of at least 1, not 0"),
        (["--start", "-1"], "--start: must be seconds or .*, not -1"),
        (["--start", "inf"], "--start: must be seconds"),
        (["--annotate"], "--annotate must come with --output"),
        (["--explain"], "--explain must come with --output"),
        (["--force"], "--force must come with --output"),
        (["--align", "--crops"], "not allowed with"),
        (["--fail-on", "real"], "--fail-on: invalid choice"),
        (["--output", "README.md"], "--output README.md: must be a folder"),
        (["--output", "training"], "--output training: holds .*, so it is not ours"),
        (["--output", "x" * 300], "File name too long"),
        (["--weights", "Meso5_DF"], "Meso5_DF: no such weights.*weights/README.md"),
        (["--weights", "README.md"], "README.md"),
        ([""], "an argument is empty"),
        (["gone.jpg"], "nothing to score: there is no image or video in gone.jpg"),
        (["x" * 300 + ".png"], "nothing to score"),
    ],
)
def test_wrong_usage(arguments, reason):
    done = run_script(SCRIPT, *arguments, status=2)
    assert re.search(reason, done.stderr)
    assert done.stdout == ""


def test_a_killed_run_continues(films, tmp_path):
    for i in range(4):
        shutil.copy(films / "pair.mp4", tmp_path / f"{i}.mp4")
    command = [*(f"{i}.mp4" for i in range(4)), "--output", "out", "--everyone"]
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import deepfakes_images as d; d.SAVE_EVERY = 0; "
    process = start("-c", code + "d.main(sys.argv[1:])", *command, cwd=tmp_path)
    wait_for(process, tmp_path, "out/results.json")
    process.kill()
    process.communicate()
    path = tmp_path / "out/results.json"
    before = {item["path"] for item in read_items(tmp_path / "out")}
    assert 1 <= len(before) < 4
    text = path.read_text().replace('"frame": 0,', '"frame": 77,')  # what is known is not scored again
    path.write_text(text)
    assert (
        "Classified as deepfake/f2f: 100.0 % (4 of 4 videos)"
        in run_script(SCRIPT, *command, cwd=tmp_path).stdout
    )
    assert {item["path"] for item in read_items(tmp_path / "out") if item.get("frame") == 77} == before


def test_a_stopped_run_says_how_far_it_came(monkeypatch, tmp_path):
    def stop(*arguments, **options):
        results = score(*arguments, **options)
        yield next(results)
        raise KeyboardInterrupt

    monkeypatch.setattr(deepfakes_images, "score", stop)
    done = run_script(SCRIPT, "test_images/df", "--output", tmp_path, status=130)
    assert done.stderr == "deepfakes_images.py: stopped after 1 of 4 files; the same command continues\n"
    assert len(read_items(tmp_path)) == 1
    assert (tmp_path / "report.html").exists()


def test_ctrl_c_in_the_first_second_is_no_traceback():
    for script in (SCRIPT, "extract_faces.py"):
        for wait in (0.05, 0.3, 0.6):
            process = start(ROOT / script, "-h")
            time.sleep(wait)
            process.send_signal(signal.SIGINT)
            _, error = process.communicate()
            assert process.returncode in (0, 1, 130, -signal.SIGINT)
            # before our second line runs, Python itself may say so
            assert ROOT.name not in error or "import signal" in error


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    for i in range(3):
        clips.write_clip(tmp_path / f"{i}.mp4", [np.zeros((64, 64, 3), np.uint8)] * 2)
    for arguments in (f"{ROOT}/test_images", "*.mp4 --output out"):
        command = f"{sys.executable} {ROOT / SCRIPT} {arguments} | head -1"
        done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, timeout=60, check=True)
        assert done.stderr == b""
    assert read_rows(tmp_path / "out")


def test_a_full_disk_is_told_and_leaves_what_was_there(tmp_path, photo):
    photo.save(tmp_path / "x.png")
    run_script(SCRIPT, "x.png", "--output", "out", cwd=tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    for folder in ("out", "new"):
        process = start(ROOT / SCRIPT, "x.png", "--output", folder, cwd=tmp_path, full_at=100)
        _, error = process.communicate()
        reason = f"deepfakes_images.py: {folder}/results.json: File too large\n"
        assert (process.returncode, error) == (1, reason)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert not list((tmp_path / "new").iterdir())
    with open("/dev/full", "w", encoding="utf-8") as full:
        process = start(SCRIPT, stdout=full)
    assert process.communicate()[1].endswith("the output cannot be written (No space left on device)\n")
    assert process.returncode == 1


def test_a_file_that_crashes_its_process_costs_itself_alone():
    def work(number, **_):
        if number == 3:
            os.kill(os.getpid(), signal.SIGSEGV)
        return number

    found = list(pipeline.run_jobs(work, [(number,) for number in range(8)], {}, jobs=2))
    assert found == [0, 1, 2, None, 4, 5, 6, 7]


def test_no_file_stays_open(tmp_path, films, photo):
    make_bad_images(tmp_path, photo)
    before = []
    for _ in range(6):
        list(score([tmp_path, films / "nobody.mp4"]))
        next(pipeline.read_frames(films / "pair.mp4"))  # and left
        before.append(len(os.listdir("/proc/self/fd")))
    assert before[-1] <= before[0]
