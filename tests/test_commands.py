"""The scoring command as a user runs it: rows, exit statuses, names, disks, processes."""

import csv
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
from conftest import ROOT, load_script, make_bad_images, read_rows, run_script
from PIL import Image

import pipeline
from weights import find_weights, load_predictor
from weights.scoring.results import COLUMNS, read_json
from weights.scoring.scores import score_crops

GOLDEN_LINE = re.compile(r"^(\d\.\d{4})  (real|deepfake) +(\S+)$", re.MULTILINE)


def test_without_arguments_it_scores_test_images():
    done = run_script("deepfakes_images.py")
    assert len(GOLDEN_LINE.findall(done.stdout)) == 8
    assert re.search(r"^ +4 .* test_images/real$", done.stdout, re.MULTILINE)
    assert re.search(r"^Average score: 0\.\d{4}$", done.stdout, re.MULTILINE)
    assert re.search(r"^Classified as deepfake/f2f: [\d.]+ % \(\d of 8 images\)$", done.stdout, re.MULTILINE)
    assert "1 = natural, 0 = deepfake/f2f" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("form", ["h5", "tflite"])
def test_authors_weights_score_their_images_as_published(shared, converted, form):
    weights = shared / "published_weights/Meso4_DF.h5" if form == "h5" else converted / "Meso4_DF.tflite"
    done = run_script("deepfakes_images.py", shared / "published_images", "--weights", weights)
    golden = json.loads((shared / "golden/scores.json").read_text())["scores"]["Meso4_DF"]["nearest"]
    rows = {
        path.partition("published_images/")[2]: score for score, _, path in GOLDEN_LINE.findall(done.stdout)
    }
    assert rows == {path: f"{score:.4f}" for path, score in golden.items()}
    assert "Accuracy per image: all 1.000, df 1.000, real 1.000, balanced 1.000, AUC 1.000" in done.stdout
    assert done.stderr.startswith("hint, for 4 of 4 images: they lack the comment")


def test_tflite_never_imports_tensorflow():
    code = (
        "import runpy, sys\n"
        "sys.argv = ['deepfakes_images.py']\n"
        "try: runpy.run_path('deepfakes_images.py', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'tensorflow', 'keras', 'classifiers', 'face_recognition'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, timeout=60)


def test_bad_images_in_a_batch_are_reported_and_the_rest_scored(tmp_path, photo):
    reasons = make_bad_images(tmp_path, photo)
    photo.save(tmp_path / "good.png")
    photo.save(os.fsencode(tmp_path) + b"/not-utf8-\xff.png", "PNG")
    done = run_script("deepfakes_images.py", tmp_path, "--json", tmp_path / "o.json", status=1)
    items = {p["path"].rpartition("/")[2]: p for p in json.loads((tmp_path / "o.json").read_text())["items"]}
    assert set(items) == {*reasons, "good.png", "not-utf8-\udcff.png"}
    for name, reason in reasons.items():
        assert items[name]["verdict"] == "error"
        assert re.search(reason, items[name]["error"])
        assert f"/{name}: " in done.stderr
    assert items["good.png"]["score"] == items["not-utf8-\udcff.png"]["score"]
    assert f"Skipped: {len(reasons)} of {len(items)}" in done.stdout


def test_outputs_follow_links(tmp_path):
    (tmp_path / "link.csv").symlink_to("target.csv")
    run_script("deepfakes_images.py", "--csv", tmp_path / "link.csv")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "target.csv").read_text().startswith("path,score")


def test_closed_output_is_no_traceback():
    for closed in (">&-", "2>&-"):
        command = f"{sys.executable} deepfakes_images.py {closed}"
        done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, timeout=60, check=True)
        assert b"Traceback" not in done.stderr


def test_many_images_get_no_row_each(tmp_path, photo):
    for i in range(51):
        photo.resize((32, 32)).save(tmp_path / f"{i:02}.png")
    done = run_script("deepfakes_images.py", tmp_path)
    assert not GOLDEN_LINE.search(done.stdout)
    assert re.search(rf"^ +51 .* {tmp_path}$", done.stdout, re.MULTILINE)


def test_nothing_to_score(tmp_path):
    done = run_script("deepfakes_images.py", tmp_path, status=2)
    assert done.stderr == f"deepfakes_images.py: nothing to score: no image or video in {tmp_path}\n"
    run_script("deepfakes_images.py", tmp_path / "gone.jpg", status=2)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--threshold", "1.5"], "--threshold: must be from 0 to 1, not 1.5"),
        (["--frames", "0"], "--frames: must be a whole number of at least 1, not 0"),
        (["--min-size", "much"], "--min-size: must be a number, not much"),
        (["--csv", "/proc/no/all.csv"], "/proc/no/all.csv: No such file or directory"),
        (["--plot", "plot.xyz"], r"plot\.xyz must end in \.png, \.jpg, \.pdf, \.svg"),
        (["--csv", "/dev/null"], "/dev/null must be a regular file"),
        (["--csv", "test_images"], "test_images must be a file, not a folder"),
        (["--csv", "x", "--json", "x"], "x would overwrite another output"),
        (["--csv", "x", "--annotate", "x"], "x/.*png would lie below .*/x, another output"),
        (["--csv", "x", "--json", "x/y.json"], "x/y.json would lie below .*/x, another output"),
        (["--csv", "README.md"], "README.md exists and is not a table of scores as --csv writes it"),
        (["--json", "weights/Meso4_DF.json"], "Meso4_DF.json exists and is not a table of scores"),
        (["--csv", "test_images/df/obama.png"], "obama.png exists and is not a table"),
        (["--report", "weights/page.html", "--start", "-1"], "--start: must be seconds or .*, not -1"),
        (["--plot", "a\nb"], r"a\\nb must end in"),
        (["--csv", "x" * 300 + "/y"], "File name too long"),
        (["--json", "x" * 300 + ".json"], "x{300}.json: File name too long"),
        (["--frames", "5", "--every", "2"], "--every: not allowed with argument --frames"),
        (["--every", "2", "--frames", "30"], "--frames: not allowed with argument --every"),
        (["--resume", "--csv", "x"], "--resume needs --json"),
        (["x" * 300 + ".png"], "nothing to score"),
        (["--weights", "Meso5_DF"], "Meso5_DF: no such weights.*weights/README.md"),
        (["--weights", "README.md"], "README.md"),
    ],
)
def test_wrong_usage(arguments, reason):
    done = run_script("deepfakes_images.py", *arguments, status=2)
    assert re.search(reason, done.stderr)
    assert done.stdout == ""


def test_a_reader_that_leaves_early_is_no_error():
    command = f"{sys.executable} deepfakes_images.py | head -1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, timeout=60, check=True)
    assert done.stderr == b""


def test_a_reader_of_videos_that_leaves_early_is_no_error(tmp_path):
    for i in range(3):
        clips.write_clip(tmp_path / f"{i}.mp4", [np.zeros((64, 64, 3), np.uint8)] * 2)
    command = f"{sys.executable} {ROOT}/deepfakes_images.py *.mp4 --min-size 80 --csv s.csv | head -1"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, timeout=60, check=True)
    assert done.stderr == b""
    assert read_rows(tmp_path / "s.csv")


def test_first_scores_come_at_once():
    started = time.monotonic()
    run_script("deepfakes_images.py", "test_images/real/hopper.png")
    assert time.monotonic() - started < 15  # about one second; TensorFlow alone would take four to twenty


@pytest.fixture
def mixed(films, tmp_path):
    """Videos, images and what is neither, in one folder."""
    folder = tmp_path / "mixed"
    shutil.copytree(films, folder)
    shutil.copy(ROOT / "test_images/real/obama.png", folder / "real/obama.png")
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def test_rows_of_videos(films):
    done = run_script("deepfakes_images.py", films / "real", films / "df", cwd=ROOT)
    lines = done.stdout.splitlines()
    assert lines[0] == " score  faces  %deepfake  verdict    video"
    score, faces, share, verdict, path = lines[1].split()
    assert (faces, share, verdict, path) == ("8", "0.0", "real", f"{films}/real/collins.mp4")
    assert float(score) > 0.5
    score, faces, share, verdict, _ = lines[2].split()
    assert (faces, share, verdict) == ("8", "100.0", "deepfake")
    assert float(score) < 0.1
    assert "Classified as deepfake/f2f: 50.0 % (1 of 2 videos)" in lines
    assert (
        "Accuracy over videos: all 1.000, df 1.000, real 1.000, balanced 1.000, AUC 1.000, uncertain 0.000"
        in lines
    )
    assert done.stderr == ""


def test_mixed_input(mixed, tmp_path):
    tables = ("--csv", tmp_path / "o.csv", "--json", tmp_path / "o.json")
    done = run_script("deepfakes_images.py", mixed, *tables, "--weights", "Meso4_DF", status=1)
    assert f"skipped {mixed}/broken.mp4: not a readable video" in done.stderr
    for line in (
        "(0 of 1 images)",
        "(2 of 3 videos)",
        "No face found: 1 of 5 videos",
        "Skipped: 1 of 5 videos",
    ):
        assert line in done.stdout
    items = json.loads((tmp_path / "o.json").read_text())["items"]
    kinds = [
        (os.path.relpath(i["path"], mixed), i["kind"], i["verdict"]) for i in items if i["kind"] != "face"
    ]
    assert kinds == [
        ("real/obama.png", "image", "real"),
        ("broken.mp4", "video", "error"),
        ("nobody.mp4", "video", "no face"),
        ("pair.mp4", "video", "deepfake"),
        ("df/forged.mp4", "video", "deepfake"),
        ("real/collins.mp4", "video", "real"),
    ]
    assert all(i["score"] is None for i in items if i.get("verdict") in ("no face", "error"))
    with (tmp_path / "o.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(items)
    for row, item in zip(rows, items, strict=True):
        digest = pipeline.compute_sha256(ROOT / "weights/Meso4_DF.tflite")[:8]
        wanted = (
            f"Meso4_DF.tflite {digest}, resizing: bilinear, 30 frames a video, the largest face of a frame"
        )
        assert row.pop("settings") == wanted
        assert {k: v for k, v in row.items() if v} == {
            k: str(v) for k, v in item.items() if v not in (None, "")
        }
    summary = json.loads((tmp_path / "o.json").read_text())["summary"]
    assert (summary["files"], summary["scored"], summary["no_face"], summary["skipped"]) == (6, 4, 1, 1)
    assert (summary["images"]["files"], summary["videos"]["files"]) == (1, 5)
    assert summary["videos"]["no_face"] == 1
    assert "photos" not in summary  # what did not occur has no verdict


def test_resume_after_a_kill(films, tmp_path):
    for i in range(4):
        shutil.copy(films / "pair.mp4", tmp_path / f"{i}.mp4")
    command = [sys.executable, "deepfakes_images.py", *(tmp_path / f"{i}.mp4" for i in range(4))]
    command += ["--json", tmp_path / "o.json", "--everyone", "--weights", "Meso4_DF"]
    code = "import deepfakes_images as d; d.SAVE_EVERY = 0; d.main()"
    slow = [sys.executable, "-c", f"import sys; sys.argv = {[os.fspath(c) for c in command[1:]]}; {code}"]
    process = subprocess.Popen(slow, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "o.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before, _ = read_json(tmp_path / "o.json")
    assert 1 <= len(before) < 4
    marked = (tmp_path / "o.json").read_text().replace('"frame": 0,', '"frame": 77,')
    (tmp_path / "o.json").write_text(marked)  # what is known is not scored again
    done = run_script(*command[1:], "--resume")
    assert "(4 of 4 videos)" in done.stdout
    after, _ = read_json(tmp_path / "o.json")
    assert list(after) == [str(tmp_path / f"{i}.mp4") for i in range(4)]
    for path, score in after.items():
        assert (77 in {face.frame for face in score.faces}) == (path in before)
        assert len(score.faces) == 16
    for option in (("--frames", "5"), ("--weights", "Meso4_F2F")):
        other = run_script(*command[1:], "--resume", *option, status=2)
        wanted = r"o\.json was scored with Meso4_DF\.tflite \w{8}, resizing: bilinear, 30 frames a video, all"
        assert re.search(wanted, other.stderr)
    (tmp_path / "o.json").write_text("{}")
    assert "not a table of scores" in run_script(*command[1:], "--resume", status=2).stderr


def test_jobs_give_the_same(films, tmp_path):
    for jobs in ("1", "2"):
        run_script("deepfakes_images.py", films, "--json", tmp_path / jobs, "--jobs", jobs, status=1)
    one, two = (read_json(tmp_path / jobs)[0] for jobs in ("1", "2"))
    assert list(one) == list(two)
    for path, score in one.items():
        assert score._replace(score=None, faces=()) == two[path]._replace(score=None, faces=())
        for a, b in zip(score.faces, two[path].faces, strict=True):
            assert a._replace(score=0) == b._replace(score=0)
            assert a.score == pytest.approx(b.score, abs=2e-6)  # another number of threads


def test_hint_where_photographs_are_taken_for_faces(tmp_path, portrait):
    Image.fromarray(portrait[:, :300]).save(tmp_path / "tall.png")
    done = run_script("deepfakes_images.py", tmp_path)
    assert done.stderr.startswith("hint, for 1 of 1 image: they are not square")
    assert "--align" in done.stderr


def test_inputs_are_never_overwritten(films, tmp_path):
    shutil.copy(films / "real/collins.mp4", tmp_path / "a.mp4")
    shutil.copy(ROOT / "test_images/real/obama.png", tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for option in ("--annotate", "--explain"):
        done = run_script("deepfakes_images.py", tmp_path, option, tmp_path, status=2)
        assert f"must not be in {tmp_path}, where files to score are searched" in done.stderr
    image = tmp_path / "obama.png"
    for option, reason in (
        ("--csv", "not a table"),
        ("--json", "not a table"),
        ("--plot", "not a picture as"),
    ):
        done = run_script("deepfakes_images.py", image, option, image, status=2)
        assert reason in done.stderr
    for option in ("--annotate", "--explain"):
        run_script("deepfakes_images.py", tmp_path, option, tmp_path / "a.mp4/x", status=2)
    done = run_script("extract_faces.py", tmp_path / "a.mp4", "--output", tmp_path, "--force", status=1)
    assert "holds no extraction.json, so it is not ours: name another --output" in done.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_pictures_of_others_are_not_replaced(films, tmp_path):
    (tmp_path / "in").mkdir()
    shutil.copy(films / "real/collins.mp4", tmp_path / "in/a.mp4")
    shutil.copy(ROOT / "test_images/real/obama.png", tmp_path / "in/b.png")
    outputs = (
        "--annotate",
        tmp_path / "copies",
        "--explain",
        tmp_path / "maps",
        "--plot",
        tmp_path / "plot.jpg",
    )
    for _ in range(2):  # ours are replaced
        run_script("deepfakes_images.py", tmp_path / "in", "--frames", "2", *outputs)
    for name in ("copies/a.mp4", "copies/b.png", "maps/b.png", "plot.jpg"):
        kept = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(b"somebody's" * 100)
        done = run_script("deepfakes_images.py", tmp_path / "in", "--frames", "2", *outputs, status=2)
        assert f"{tmp_path / name} exists and is not" in done.stderr
        (tmp_path / name).write_bytes(kept)


def test_of_many_images_those_called_deepfake_are_shown(tmp_path):
    for number in range(50):
        shutil.copy(ROOT / "test_images/real/obama.png", tmp_path / f"{number}.png")
    shutil.copy(ROOT / "test_images/df/obama.png", tmp_path / "forged.png")
    done = run_script("deepfakes_images.py", tmp_path)
    rows = [line for line in done.stdout.splitlines() if line.endswith(".png")]
    assert rows == [f"0.0010  deepfake  {tmp_path / 'forged.png'}"]
    assert "Rows only for images called deepfake: --csv lists all images." in done.stdout


def test_small_crops_are_told(tmp_path):
    face = pipeline.read_image(ROOT / "test_images/real/obama.png")
    pipeline.write_crop(pipeline.resize_face(face, "bilinear", 60), tmp_path / "small.png")
    done = run_script("deepfakes_images.py", tmp_path, "--csv", tmp_path / "s.csv")
    assert done.stderr.startswith(
        "hint, for 1 of 1 image: they show faces smaller than those that the weights"
    )
    (row,) = read_rows(tmp_path / "s.csv").values()
    assert row["warning"] == "smaller than the faces that the weights were tested on"


def test_a_folder_is_passed_over_as_doubtful_beside_an_extraction_alone(tmp_path):
    for name in ("doubtful/a.png", "person1/doubtful/b.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / "test_images/real/obama.png", tmp_path / name)
    (tmp_path / "notes").touch()
    files, passed_over = pipeline.find_files([tmp_path])
    assert [file.path.name for file in files] == ["a.png", "b.png"]
    assert pipeline.describe_passed_over(passed_over).endswith("videos: no suffix: 1")
    (tmp_path / "extraction.json").touch()
    assert pipeline.find_files([tmp_path])[0] == []


def test_a_stopped_run_says_how_far_it_came(monkeypatch, capsys, tmp_path):
    main = load_script("deepfakes_images.py")

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(main.__globals__, "score_videos", stop)
    monkeypatch.chdir(ROOT)
    assert main(["test_images/df", "--json", str(tmp_path / "s.json")]) == 130
    assert capsys.readouterr().err.endswith("stopped after 4 of 4 files; add --resume to continue\n")
    assert len(json.loads((tmp_path / "s.json").read_text())["items"]) == 4


def test_tensorflow_is_not_imported_for_videos(films):
    code = (
        "import sys, deepfakes_images as d; sys.argv = ['x', sys.argv[1], '--frames', '2']; d.main();"
        "sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, films / "real/collins.mp4"], cwd=ROOT, check=True)


BOUND = 10  # seconds for any of the files here, on a busy machine


NAMES = [
    "a space.png",
    "'single'.png",
    'double".png',
    "new\nline.png",
    "-leading.png",
    "--help.png",
    "$(touch x).png",
    "%d.png",
    "back\\slash.png",
    "ünï中.png",
    "\x1b[31m.png",
    "w" * 251 + ".png",
    os.fsdecode(b"\xff\xfe.png"),
]


def test_odd_names_are_scored_like_others(tmp_path, photo):
    folder = tmp_path / "-f\n o"
    folder.mkdir()
    photo.save(tmp_path / "plain.png")
    for name in NAMES:
        os.link(tmp_path / "plain.png", folder / name)
    done = run_script("deepfakes_images.py", "--csv", "s.csv", "--", "-f\n o", "plain.png", cwd=tmp_path)
    assert sum("real      " in line and ".png" in line for line in done.stdout.splitlines()) == len(NAMES) + 1
    with open(tmp_path / "s.csv", encoding="utf-8", newline="", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    # no spreadsheet runs a path as a formula
    assert sorted(row["path"] for row in rows) == sorted([f"./-f\n o/{n}" for n in NAMES] + ["plain.png"])
    assert len({row["score"] for row in rows}) == 1
    assert "\x1b" not in done.stdout


def test_videos_of_odd_names_are_extracted(tmp_path):
    frames = [np.zeros((64, 64, 3), np.uint8)] * 2
    clips.write_clip(tmp_path / "x.mp4", frames)
    names = [Path(name).with_suffix(".mp4").name for name in NAMES if len(name) < 200]
    (tmp_path / "videos").mkdir()
    for name in names:
        os.link(tmp_path / "x.mp4", tmp_path / "videos" / name)
    options = ("--output", "out", "--min-size", "80", "--frames", "1")
    done = run_script("extract_faces.py", "videos", *options, cwd=tmp_path, status=1)
    assert len(done.stdout.splitlines()) == len(names)
    assert done.stdout.count(": 0 faces in 1 frame") == len(names)
    assert len(list((tmp_path / "out").rglob("extraction.json"))) == len(names)


LIMITED = """import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
sys.argv = sys.argv[1:]
sys.path.insert(0, {root!r})
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_on_full_disk(limit, script, *arguments, cwd):
    """Run a script that cannot write more than `limit` bytes to a file; return its status and stderr."""
    code = LIMITED.format(root=str(ROOT), limit=limit)
    command = [sys.executable, "-c", code, ROOT / script, *arguments]
    command = list(map(str, command))
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr, done.stdout


def test_a_full_disk_is_told_and_leaves_what_was_there(tmp_path, photo):
    photo.save(tmp_path / "x.png")
    (tmp_path / "s.csv").write_text(",".join(COLUMNS))
    for option, name in (("--csv", "s.csv"), ("--json", "s.json"), ("--plot", "s.png"), ("--annotate", "a")):
        status, stderr, stdout = run_on_full_disk(
            100, "deepfakes_images.py", "x.png", option, name, cwd=tmp_path
        )
        assert status == 1, option
        assert f"{name}: File too large" in stderr or option == "--annotate", option
        assert "File too large" in stderr, option
        assert "Average score" in stdout, option  # the scores are told all the same
    assert (tmp_path / "s.csv").read_text() == ",".join(COLUMNS)
    left = {path.name for path in tmp_path.rglob("*")}
    assert left == {"x.png", "s.csv", "a"}


def test_a_table_that_fails_does_not_cost_the_other(tmp_path, photo, monkeypatch):
    def fail(*_):
        raise OSError("s.csv: full")

    photo.save(tmp_path / "x.png")
    monkeypatch.setitem(load_script("deepfakes_images.py").__globals__, "write_csv", fail)
    done = run_script(
        "deepfakes_images.py", "x.png", "--csv", "s.csv", "--json", "s.json", cwd=tmp_path, status=1
    )
    assert done.stderr.endswith("deepfakes_images.py: s.csv: full\n")
    assert len(json.loads((tmp_path / "s.json").read_text())["items"]) == 1


def test_a_full_disk_while_faces_are_extracted(tmp_path):
    photo = clips.open_portrait()
    frame = clips.film(photo, pipeline.Pose(320, 240, 160, 0))
    clips.write_clip(tmp_path / "x.mp4", [frame] * 3)
    status, stderr, _ = run_on_full_disk(1000, "extract_faces.py", "x.mp4", cwd=tmp_path)
    assert status == 1
    assert "x.mp4: File too large" in stderr
    assert not list((tmp_path / "output").rglob("*")) or not (tmp_path / "output").exists()
    run_script("extract_faces.py", "x.mp4", cwd=tmp_path)  # with room again
    assert len(list((tmp_path / "output").glob("*.png"))) == 3 + 1


def test_text_of_an_edited_table_is_made_printable(films, tmp_path):
    command = ["deepfakes_images.py", films / "pair.mp4", "--frames", "2", "--json", tmp_path / "s.json"]
    run_script(*command)
    table = json.loads((tmp_path / "s.json").read_text())
    table["items"][0]["note"] = "\ud800 \n"
    (tmp_path / "s.json").write_text(json.dumps(table))
    run_script(*command, "--resume", "--csv", tmp_path / "o.csv")
    with (tmp_path / "o.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["note"] == r"\ud800 \n"


def test_outputs_that_cannot_be_written_leave_nothing(tmp_path, photo):
    photo.save(tmp_path / "x.png")
    clips.write_clip(tmp_path / "x.mp4", [np.zeros((64, 64, 3), np.uint8)] * 2)
    (tmp_path / "file").touch()
    (tmp_path / "maps/x.png").mkdir(parents=True)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "proc.csv").symlink_to("/proc/x/y.csv")
    before = sorted(tmp_path.rglob("*"))
    for arguments, reason in (
        (
            "deepfakes_images.py x.png --csv new/s.csv --json file/s.json",
            "file/s.json: .*file is not a folder",
        ),
        ("deepfakes_images.py x.png --plot new/sub/s.png --weights none", "none: no such weights"),
        ("deepfakes_images.py x.png --annotate file", "file/x.png: .*file is not a folder"),
        ("deepfakes_images.py x.png --explain maps", "maps/x.png is a folder, and a file is to be written"),
        ("deepfakes_images.py x.png --csv proc.csv", "proc.csv: No such file or directory"),
        ("extract_faces.py x.mp4 --output file/x", "--output file/x: .*file is not a folder"),
        ("extract_faces.py x.mp4 --output loop", "--output loop must be a folder"),
        ("extract_faces.py x.mp4 --output new/" + "x" * 300, "x: File name too long"),
    ):
        done = run_script(*arguments.split(), cwd=tmp_path, status=2)
        assert re.search(reason, done.stderr.splitlines()[-1]), arguments
        assert sorted(tmp_path.rglob("*")) == before, arguments


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_output(tmp_path):
    clips.write_clip(tmp_path / "x.mp4", [np.zeros((64, 64, 3), np.uint8)] * 2)
    (tmp_path / "locked").mkdir(mode=0o500)
    done = run_script("extract_faces.py", "x.mp4", "--output", "locked/x", cwd=tmp_path, status=1)
    assert "Permission denied" in done.stderr


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("deepfakes_images.py", ""), "an argument is empty"),
        (("extract_faces.py", "x.mp4", "--output", ""), "an argument is empty"),
        (("deepfakes_images.py", "--min-size", "nan"), "must be a number, not nan"),
        (("extract_faces.py", "--start", "inf"), "must be a number, not inf"),
        (("extract_faces.py", "--output", "README.md"), "README.md must be a folder"),
        (("extract_faces.py", "gone.mp4", "--output", "."), "gone.mp4 does not exist"),
        (("deepfakes_images.py", "--annotate", "{0}", "--explain", "{0}"), "would overwrite another output"),
        (("training/df_CNN.py", "--name", "../x"), "must be a file name"),
        (("training/df_CNN.py", "--seed", "-1"), "--seed must be 0 to"),
        (("training/df_CNN.py", "--output", "data/training/df"), "lies among the faces"),
    ],
)
def test_wrong_usage_is_told_at_once(tmp_path, command, reason):
    done = run_script(*(word.format(tmp_path) for word in command), status=2)
    assert reason in done.stderr


def test_closed_streams_and_folders_that_are_gone(tmp_path):
    clips.write_clip(tmp_path / "x.mp4", [np.zeros((64, 64, 3), np.uint8)] * 2)
    for script, options in (("extract_faces.py", "--output out"), ("deepfakes_images.py", "--csv s.csv")):
        command = f"{sys.executable} {ROOT / script} x.mp4 --min-size 80 {options} >&- 2>&- <&-"
        assert subprocess.run(command, shell=True, cwd=tmp_path, check=False).returncode == 1  # no face
        gone = f"mkdir gone; cd gone; rmdir ../gone; {sys.executable} {ROOT / script} x.mp4"
        done = subprocess.run(gone, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert (tmp_path / "out/extraction.json").exists()
    assert len(read_rows(tmp_path / "s.csv")) == 1


def test_scores_do_not_depend_on_batch_order_or_run(tmp_path):
    """To a millionth: sums in another order round otherwise."""
    ways = {
        "one": ["test_images/real/obama.png"],
        "three": ["test_images/real", "test_images/df"],
        "again": ["test_images/real", "test_images/df"],
        "all": [*map(str, sorted(ROOT.glob("test_images/*/*.png"), reverse=True))],
    }
    scores = {}
    for name, arguments in ways.items():
        run_script("deepfakes_images.py", *arguments, "--csv", tmp_path / f"{name}.csv")
        rows = read_rows(tmp_path / f"{name}.csv")
        scores[name] = {Path(ROOT, path): float(row["score"]) for path, row in rows.items()}
    assert scores["three"] == scores["again"]
    for name in ("one", "all"):
        same = {path: scores["three"][path] for path in scores[name]}
        assert scores[name] == pytest.approx(same, abs=1.1e-6)


def test_videos_do_not_depend_on_jobs_or_order(tmp_path):
    photo = clips.open_portrait()
    for number in range(3):
        poses = [pipeline.Pose(300 + 8 * i + 20 * number, 240, 150, 0) for i in range(4)]
        clips.write_clip(tmp_path / f"{number}.mp4", [clips.film(photo, pose) for pose in poses])
    names = [f"{number}.mp4" for number in range(3)]
    run_script("deepfakes_images.py", *names, "--csv", "one.csv", cwd=tmp_path)
    run_script("deepfakes_images.py", *names[::-1], "--jobs", "2", "--csv", "two.csv", cwd=tmp_path)
    one, two = (read_rows(tmp_path / f"{name}.csv") for name in ("one", "two"))
    for name in names:
        assert one[name]["verdict"] == two[name]["verdict"] == "real"
        assert float(one[name]["score"]) == pytest.approx(float(two[name]["score"]), abs=2e-6)
    for jobs in ("1", "2"):
        run_script("extract_faces.py", *names, "--output", f"out{jobs}", "--jobs", jobs, cwd=tmp_path)
    faces = sorted(path.relative_to(tmp_path / "out1") for path in (tmp_path / "out1").rglob("*.*"))
    assert len(faces) == 3 * (4 + 3)
    for face in faces:
        assert (tmp_path / "out1" / face).read_bytes() == (tmp_path / "out2" / face).read_bytes()


def test_more_jobs_than_videos_start_no_more_processes(tmp_path):
    clips.write_clip(tmp_path / "x.mp4", [np.zeros((64, 64, 3), np.uint8)] * 2)
    run_script("extract_faces.py", "x.mp4", "--jobs", "100000", cwd=tmp_path, status=1)


def test_a_file_that_crashes_its_process_costs_itself_alone():
    def work(number, **_):
        if number == 3:
            os.kill(os.getpid(), signal.SIGSEGV)
        return number

    found = list(pipeline.run_jobs(work, [(number,) for number in range(8)], {}, jobs=2))
    assert found == [0, 1, 2, None, 4, 5, 6, 7]


SLEEP = """
import os, sys, time; sys.path.insert(0, sys.argv[1])
import pipeline
def work(number, **_):
    print(os.getpid(), flush=True)
    time.sleep(100)
list(pipeline.run_jobs(work, [(1,), (2,)], {}, jobs=2))
"""


def is_running(process):
    try:
        return (
            Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(") ")[2][0] != "Z"
        )  # a zombie
    except OSError:
        return False


def test_the_processes_of_a_killed_run_end():
    process = subprocess.Popen([sys.executable, "-c", SLEEP, ROOT], stdout=subprocess.PIPE, text=True)
    workers = [int(process.stdout.readline()) for _ in range(2)]
    process.kill()
    process.wait()
    until = time.monotonic() + BOUND
    while any(is_running(worker) for worker in workers):
        assert time.monotonic() < until
        time.sleep(0.1)


def test_no_file_stays_open(tmp_path, photo):
    clips.write_clip(tmp_path / "x.mp4", [clips.draw_number(i) for i in range(30)])
    photo.save(tmp_path / "x.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "x.png").read_bytes()[:3000])
    (tmp_path / "bad.mp4").write_bytes((tmp_path / "x.mp4").read_bytes()[:500])
    weights = find_weights("Meso4_DF")
    predict = load_predictor(weights)
    images = pipeline.find_images([tmp_path])

    def work():
        list(score_crops(images, predict, "bilinear", 0.5))
        list(pipeline.read_frames(tmp_path / "x.mp4"))
        next(pipeline.read_frames(tmp_path / "x.mp4"))  # and left
        for path in (tmp_path / "bad.mp4", tmp_path / "none.mp4"):
            with pytest.raises((OSError, ValueError)):
                list(pipeline.read_frames(path))

    work()
    before = os.listdir("/proc/self/fd")
    for _ in range(5):
        work()
    assert len(os.listdir("/proc/self/fd")) <= len(before)


SCRIPTS = [
    *("deepfakes_images.py", "extract_faces.py", "training/df_CNN.py", "training/make_views.py"),
    *("weights/average.py", "weights/convert.py", "weights/download.py", "training/visualize.py"),
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_an_example_and_the_version_is_told(script):
    done = run_script(script, "--version")
    assert done.stdout.endswith(f" {pipeline.VERSION}\n")
    assert f"python3 {script}" in run_script(script, "--help").stdout


def test_times_of_scoring(films, tmp_path):
    command = ["deepfakes_images.py", films / "df", "--start", "0:00.1", "--end", "0.2", "--json", "s.json"]
    run_script(*command, cwd=tmp_path)
    rows = json.loads((tmp_path / "s.json").read_text())["items"]
    times = [row["time"] for row in rows if row["kind"] == "face"]
    assert times
    assert all(0.1 <= time <= 0.2 for time in times)
    done = run_script("deepfakes_images.py", "--start", "2", "--end", "1", status=2)
    assert "--end 1 must not be before --start 2" in done.stderr
