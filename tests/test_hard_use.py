"""Faults, hostile files, odd names, full disks: told in a line each, nothing lost, nothing hangs."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import clips
import h5py
import numpy as np
import pytest
from conftest import ROOT, run_script
from PIL import Image
from PIL import ImageFile as PillowFile

import classifiers
import pipeline
from weights import find_weights, load_predictor
from weights.scores import Result, score_crops
from weights.table import read_json, write_json

MUTANTS = 40  # of each format
BOUND = 10  # seconds for any of the files here, on a busy machine


@pytest.fixture(scope="module")
def portrait():
    return Image.open(ROOT / "test_images/real/hopper.png").convert("RGB")


def damage(data, random):
    """Return bytes cut short, with bits flipped, bytes of the header changed, or a piece replaced."""
    data, kind = bytearray(data), random.integers(4)
    if kind == 0:
        return bytes(data[: random.integers(len(data))])
    if kind == 1:
        for _ in range(random.integers(1, 20)):
            data[random.integers(len(data))] ^= 1 << random.integers(8)
    elif kind == 2:
        for _ in range(random.integers(1, 10)):
            data[random.integers(min(400, len(data)))] = random.integers(256)
    else:
        start = random.integers(len(data))
        data[start : start + random.integers(1, 50)] = random.bytes(random.integers(50))
    return bytes(data)


def read_or_refuse(read):
    """Return what `read` gives, or None where it refuses as it should: in one line, in time."""
    started, found, reason = time.monotonic(), None, "one line"
    try:
        found = read()
    except (OSError, ValueError) as error:
        reason = pipeline.describe_error(error)
    assert len(reason.splitlines()) == 1
    assert time.monotonic() - started < BOUND
    return found


# --- hostile images -------------------------------------------------------------------------------

FORMATS = [
    ("PNG", {}),
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("GIF", {}),
    ("BMP", {}),
    ("PPM", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "jpeg"}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
]


@pytest.mark.parametrize(("form", "options"), FORMATS)
def test_damaged_images_are_read_or_refused(tmp_path, portrait, form, options):
    whole = io.BytesIO()
    portrait.resize((96, 96)).save(whole, form, **options)
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(MUTANTS):
        (tmp_path / "x.png").write_bytes(damage(whole.getvalue(), random))  # the suffix tells nothing
        face = read_or_refuse(lambda: pipeline.read_image(tmp_path / "x.png"))
        assert face is None or (face.dtype == np.uint8 and face.ndim == 3 and face.shape[2] == 3)
        refused += face is None
    assert refused


def test_every_truncation_of_an_image_is_refused(tmp_path, portrait):
    whole = io.BytesIO()
    portrait.resize((32, 32)).save(whole, "JPEG")
    data = whole.getvalue()[:-2]  # what the end marker adds nothing to
    for length in range(0, len(data), 7):
        (tmp_path / "x.jpg").write_bytes(data[:length])
        with pytest.raises((OSError, ValueError)):
            pipeline.read_image(tmp_path / "x.jpg")


def test_bombs_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    for form in ("PNG", "TIFF", "GIF"):
        path = tmp_path / f"bomb.{form}"
        Image.new("1" if form != "GIF" else "L", (20_000, 20_000)).save(path, form)
    unpacked = []
    monkeypatch.setattr(PillowFile.ImageFile, "load", unpacked.append)
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match="pixels"):
            pipeline.read_image(path)
    header = b"P6 99999999 99999999 255\n"
    (tmp_path / "absurd.ppm").write_bytes(header + b"0" * 100)
    (tmp_path / "long.ppm").write_bytes(b"P6 " + b"9" * 5000 + b" 1 255\n")
    for name in ("absurd.ppm", "long.ppm"):
        assert read_or_refuse(lambda name=name: pipeline.read_image(tmp_path / name)) is None
    assert not unpacked


def test_a_jpeg_of_endless_scans_is_refused(tmp_path):
    """Of 140 bytes each, that take as long as the whole picture: a few megabytes would take hours."""
    written = io.BytesIO()
    Image.new("L", (600, 600), 128).save(written, "JPEG", progressive=True)
    whole = written.getvalue()
    last = whole[whole.rindex(b"\xff\xda") : -2]
    (tmp_path / "x.jpg").write_bytes(whole[:-2] + 1000 * last + whole[-2:])
    with pytest.raises(ValueError, match="JPEG of 1006 scans: must be at most 100"):
        pipeline.read_image(tmp_path / "x.jpg")
    # what phones put into a photograph's headers and behind its end says nothing
    tail = np.random.default_rng(0).bytes(8_000_000)
    comment = b"\xff\xfe\x7f\xff" + 16_382 * b"\xff\xda" + b"x"
    (tmp_path / "y.jpg").write_bytes(whole[:2] + comment + whole[2:] + tail)
    assert pipeline.read_image(tmp_path / "y.jpg").shape == (600, 600, 3)


def test_nothing_is_run_to_read_an_image(tmp_path, portrait):
    """PostScript is a programming language, which Pillow has Ghostscript run."""
    portrait.save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(tmp_path / "x.png")
    with pytest.raises(ValueError, match="not an image"):
        pipeline.read_image(tmp_path / "x.png")


# --- hostile videos -------------------------------------------------------------------------------

CODECS = {
    "mp4": ("libx264", {"g": "8"}),
    "mkv": ("libx264", {"bf": "2"}),
    "webm": ("libvpx-vp9", {}),
    "avi": ("mpeg4", {}),
    "ts": ("mpeg2video", {}),
}


@pytest.mark.parametrize("suffix", CODECS)
def test_damaged_videos_are_read_or_refused(tmp_path, suffix):
    codec, options = CODECS[suffix]
    clips.write_clip(tmp_path / f"x.{suffix}", [clips.draw_number(i) for i in range(30)], codec, options)
    whole, random = (tmp_path / f"x.{suffix}").read_bytes(), np.random.default_rng(0)
    outcomes = set()
    for number in range(MUTANTS):
        path = tmp_path / f"y.{suffix}"
        path.write_bytes(damage(whole, random))
        search = {"count": (5, 30)[number % 2], "keyframes": number % 5 == 0}
        frames = read_or_refuse(lambda path=path, search=search: list(pipeline.read_frames(path, **search)))
        outcomes.add(frames is None)
        indices = [frame.index for frame in frames or ()]
        assert indices == sorted(set(indices))
    assert outcomes == {True, False}


@pytest.mark.parametrize("name", ["list.mp4", "list.m3u8", "live.m3u8", "concat.mp4", "stream.mp4"])
def test_a_file_that_points_elsewhere_is_no_video(tmp_path, name):
    """Playlists and such: FFmpeg would fetch from networks, read other files, wait for what is to come."""
    clips.write_clip(tmp_path / "x.ts", [clips.draw_number(i) for i in range(5)], "mpeg2video")
    live = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nx.ts\n"
    content = {
        "list": live + "#EXT-X-ENDLIST\n",
        "live": live,  # without an end: more segments may come
        "concat": "ffconcat version 1.0\nfile x.ts\n",
        "stream": "v=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    }
    (tmp_path / name).write_text(content[name.partition(".")[0]])
    with pytest.raises(ValueError, match="not a readable video"):
        list(pipeline.read_frames(tmp_path / name))


def test_a_video_whose_frames_change_size(tmp_path):
    for number, size in enumerate(((64, 160), (96, 128))):
        frames = [np.full((*size, 3), 80 * number, np.uint8)] * 10
        clips.write_clip(tmp_path / f"{number}.ts", frames, "mpeg2video")
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join((tmp_path / f"{n}.ts").read_bytes() for n in (0, 1)))
    assert {frame.image.shape for frame in pipeline.read_frames(joined)} <= {(64, 160, 3), (96, 128, 3)}


def test_a_video_of_absurd_size_is_refused(tmp_path, monkeypatch):
    clips.write_clip(tmp_path / "x.mp4", [np.zeros((64, 64, 3), np.uint8)] * 3)
    monkeypatch.setattr(pipeline, "LARGEST_IMAGE", 1000)
    with pytest.raises(ValueError, match="64x64 pixels: must be at most 1,000 in all"):
        list(pipeline.read_frames(tmp_path / "x.mp4"))


# --- names and trees ------------------------------------------------------------------------------

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


def test_odd_names_are_scored_like_others(tmp_path, portrait):
    folder = tmp_path / "-f\n o"
    folder.mkdir()
    portrait.save(tmp_path / "plain.png")
    for name in NAMES:
        os.link(tmp_path / "plain.png", folder / name)
    done = run_script("deepfakes_images.py", "--csv", "s.csv", "--", "-f\n o", "plain.png", cwd=tmp_path)
    assert sum("real      " in line and ".png" in line for line in done.stdout.splitlines()) == len(NAMES) + 1
    with open(tmp_path / "s.csv", newline="", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["path"] for row in rows) == sorted([f"-f\n o/{n}" for n in NAMES] + ["plain.png"])
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


def test_a_tree_deeper_than_python_calls(tmp_path, portrait, monkeypatch):
    """And, at its end, deeper than a path can be long: that is told."""
    monkeypatch.chdir(tmp_path)
    portrait.save("plain.png")
    os.mkdir("top")
    folder = os.open("top", os.O_RDONLY)
    for depth in range(2100):
        if depth == 1500:
            os.link("plain.png", "deep.png", dst_dir_fd=folder)
        os.mkdir("a", dir_fd=folder)
        below = os.open("a", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    found = pipeline.find_images(["top"])
    assert [image.path.name for image in found] == ["deep.png", "a"]
    with pytest.raises(OSError, match="too long"):
        pipeline.read_image(found[1].path)
    subprocess.run(["rm", "-r", "top"], check=True)  # pytest's own way is recursive


def test_links_in_circles_are_followed_once(tmp_path, portrait):
    portrait.save(tmp_path / "x.png")
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "there").symlink_to("back")
    (tmp_path / "back").symlink_to("there")
    found = [image.path.name for image in pipeline.find_images([tmp_path])]
    assert found == ["self.png", "x.png"]
    with pytest.raises(OSError, match="Too many levels"):
        pipeline.read_image(tmp_path / "self.png")


def test_a_file_that_vanishes_while_others_are_scored(tmp_path, portrait):
    for number in range(3):
        portrait.save(tmp_path / f"{number}.png")
    images = pipeline.find_images([tmp_path])
    (tmp_path / "1.png").unlink()
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:2000])
    found = list(score_crops(images, lambda faces: np.ones(len(faces)), "bilinear", 0.5))
    assert [score.verdict for score in found] == ["real", "error", "error"]
    assert [Path(score.item.path).name for score in found] == ["0.png", "1.png", "2.png"]


def test_a_video_that_changes_while_it_is_read(tmp_path):
    path = tmp_path / "x.mp4"
    clips.write_clip(path, [clips.draw_number(i % 900, 256, 320) for i in range(300)], options={"g": "10"})
    whole = path.read_bytes()
    frames = pipeline.read_frames(path, 30, threads=1)
    assert next(frames).index == 0
    with open(path, "r+b") as file:  # cut short while it is open
        file.truncate(len(whole) // 2)
    rest = read_or_refuse(lambda: [frame.index for frame in frames])
    assert rest is None or rest == sorted(set(rest))


# --- outputs --------------------------------------------------------------------------------------

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


def test_a_full_disk_is_told_and_leaves_what_was_there(tmp_path, portrait):
    portrait.save(tmp_path / "x.png")
    (tmp_path / "s.csv").write_text("old")
    for option, name in (("--csv", "s.csv"), ("--json", "s.json"), ("--plot", "s.png"), ("--annotate", "a")):
        status, stderr, stdout = run_on_full_disk(
            100, "deepfakes_images.py", "x.png", option, name, cwd=tmp_path
        )
        assert status == 1, option
        assert "File too large" in stderr, option
        assert "Average score" in stdout, option  # the scores are told all the same
    assert (tmp_path / "s.csv").read_text() == "old"
    left = {path.name for path in tmp_path.rglob("*")}
    assert left == {"x.png", "s.csv", "a"}


def test_a_full_disk_while_faces_are_extracted(tmp_path):
    portrait = clips.open_portrait()
    frame = clips.film(portrait, pipeline.Pose(320, 240, 160, 0))
    clips.write_clip(tmp_path / "x.mp4", [frame] * 3)
    status, stderr, _ = run_on_full_disk(1000, "extract_faces.py", "x.mp4", cwd=tmp_path)
    assert status == 1
    assert "x.mp4: File too large" in stderr
    assert not list((tmp_path / "output").rglob("*")) or not (tmp_path / "output").exists()
    run_script("extract_faces.py", "x.mp4", cwd=tmp_path)  # with room again
    assert len(list((tmp_path / "output").glob("*.png"))) == 3 + 1


def test_outputs_that_cannot_be_written(tmp_path, portrait):
    portrait.save(tmp_path / "x.png")
    (tmp_path / "file").touch()
    for option in ("--csv", "--json"):
        done = run_script("deepfakes_images.py", "x.png", option, "file/s.csv", cwd=tmp_path, status=2)
        assert f"{option}: file: File exists" in done.stderr
    clips.write_clip(tmp_path / "x.mp4", [np.zeros((64, 64, 3), np.uint8)] * 2)
    done = run_script("extract_faces.py", "x.mp4", "--output", "file/x", cwd=tmp_path, status=1)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_output(tmp_path):
    clips.write_clip(tmp_path / "x.mp4", [np.zeros((64, 64, 3), np.uint8)] * 2)
    (tmp_path / "locked").mkdir(mode=0o500)
    done = run_script("extract_faces.py", "x.mp4", "--output", "locked/x", cwd=tmp_path, status=1)
    assert "Permission denied" in done.stderr


# --- weights --------------------------------------------------------------------------------------


def list_datasets(path):
    found = []
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.append(name) if hasattr(item, "shape") else None)
        return found, [file[name].shape for name in found]


def remove(file, name):
    del file[name]


def replace(make):
    def change(file, name):
        shape = file[name].shape
        del file[name]
        make(file, name, shape)

    return change


HOSTILE = {
    "missing": remove,
    "large": replace(lambda f, n, _: f.create_dataset(n, (200_000,), "f4", chunks=(1000,))),
    "huge": replace(lambda f, n, _: f.create_dataset(n, (10**11,), "f4", chunks=(2**20,), compression=9)),
    "text": replace(lambda f, n, s: f.create_dataset(n, s, h5py.string_dtype())),
    "another shape": replace(lambda f, n, _: f.create_dataset(n, (3,), "f4")),
    "no numbers": replace(lambda f, n, s: f.create_dataset(n, s, "f4", np.full(s, np.nan, "f4"))),
    "another file": replace(lambda f, n, s: f.create_dataset(n, s, "f4", external=[("/etc/passwd", 0, 99)])),
    "another file's part": replace(lambda f, n, _: f.__setitem__(n, h5py.ExternalLink("/etc/passwd", "x"))),
    "itself": replace(lambda f, n, _: f.__setitem__(n, h5py.SoftLink("/" + n))),
}


@pytest.mark.parametrize("change", HOSTILE)
def test_weights_are_loaded_whole_or_not_at_all(tmp_path, change):
    path = tmp_path / "x.weights.h5"
    path.write_bytes((ROOT / "weights/Meso4_DF.weights.h5").read_bytes())
    names, shapes = list_datasets(path)
    with h5py.File(path, "r+") as file:
        HOSTILE[change](file, next(n for n, s in zip(names, shapes, strict=True) if len(s) == 1))
    classifier = classifiers.Meso4()
    before = classifier.model.get_weights()
    with pytest.raises(ValueError, match=r"x\.weights\.h5: "):
        classifier.load(path)
    for weights, old in zip(classifier.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weights, old)


@pytest.mark.parametrize("source", ["Meso4_DF.weights.h5", "authors"])
def test_damaged_weights_are_loaded_or_refused(tmp_path, request, source):
    if source == "authors":
        source = request.getfixturevalue("shared") / "published_weights/Meso4_DF.h5"
    path = Path(ROOT / "weights" / source)
    classifier, random = classifiers.Meso4(), np.random.default_rng(0)
    for _ in range(MUTANTS):
        copy = tmp_path / f"x{''.join(path.suffixes)}"
        copy.write_bytes(damage(path.read_bytes(), random))
        read_or_refuse(lambda copy=copy: classifier.load(copy))
        copy.unlink()


TRY_WEIGHTS = """
import sys; sys.path.insert(0, sys.argv[1])
import numpy as np, pipeline, weights
for path in sys.argv[2:]:
    try:
        predict = weights.load_predictor(weights.find_weights(path))
        predict(np.zeros((2, 256, 256, 3), np.uint8))
        print("loaded")
    except ValueError as error:
        print("refused", pipeline.describe_error(error))
"""


def test_damaged_litert_weights_crash_nothing(tmp_path):
    """Even where their card vouches for them. In a process of its own, lest a crash end the tests."""
    card = json.loads((ROOT / "weights/Meso4_DF.json").read_text())
    whole, random = (ROOT / "weights/Meso4_DF.tflite").read_bytes(), np.random.default_rng(0)
    paths = [tmp_path / f"{number}.tflite" for number in range(MUTANTS)]
    for path in paths:
        path.write_bytes(damage(whole, random))
        card["sha256"] = {path.name: pipeline.compute_sha256(path)}
        path.with_suffix(".json").write_text(json.dumps(card))
    command = [sys.executable, "-c", TRY_WEIGHTS, ROOT, *paths]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=True)
    outcomes = done.stdout.splitlines()
    assert len(outcomes) == MUTANTS
    assert {outcome.split()[0] for outcome in outcomes} == {"loaded", "refused"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"threshold": float("nan")}, "threshold nan, must be from 0 to 1"),
        ({"threshold": 7}, "threshold 7, must be from 0 to 1"),
        ({"threshold": [1]}, "not a card"),
        ({"resampling": "../x"}, "resampling"),
        ({"sha256": "x"}, "not a card"),
        ("[" * 100_000, "not a card"),
        ("null", "not a card"),
    ],
)
def test_cards_are_not_trusted(tmp_path, change, reason):
    (tmp_path / "x.tflite").write_bytes((ROOT / "weights/Meso4_DF.tflite").read_bytes())
    card = json.loads((ROOT / "weights/Meso4_DF.json").read_text())
    card["sha256"] = {"x.tflite": card["sha256"]["Meso4_DF.tflite"]}
    text = change if isinstance(change, str) else json.dumps(card | change)
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=reason):
        find_weights(tmp_path / "x.tflite")


def test_pickles_are_not_unpacked(tmp_path):
    """Checkpoints are NumPy's archives, whose objects would be pickles: code."""
    from training import trainer

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    np.savez(tmp_path / "checkpoint-00001.npz", header=np.array([Bomb()], dtype=object))
    run = trainer.Trainer(trainer.Recipe(), trainer.choose_strategy())
    with pytest.raises(trainer.DamagedCheckpointError, match="damaged"):
        run.restore(tmp_path / "checkpoint-00001.npz")
    assert not (tmp_path / "pwned").exists()


def test_checkpoints_are_taken_up_whole_or_not_at_all(tmp_path):
    from training import trainer

    run = trainer.Trainer(trainer.Recipe(), trainer.choose_strategy())
    run.save(tmp_path, trainer.TrainingState(1, 0.5, 1, ({"epoch": 1},)))
    with np.load(tmp_path / "checkpoint-00001.npz") as arrays:
        whole = dict(arrays)
    assert run.restore(tmp_path / "checkpoint-00001.npz").epoch == 1
    state = json.loads(str(whole["header"]))
    last = f"variable_{len(whole) - 2}"
    before = [variable.numpy() for variable in run.variables]
    for change in (
        {"header": "{}"},
        {"header": "[]"},
        {"header": "[" * 100_000},
        {"header": json.dumps(state | {"recipe": []})},
        {"header": json.dumps(state | {"state": {"no": 1}})},
        {"header": json.dumps(state | {"state": state["state"] | {"history": None}})},
        {last: np.zeros(3)},
        {last: np.full_like(whole[last], np.nan, float)},
    ):
        np.savez(
            tmp_path / "x.npz", **(whole | {n: v + 1 for n, v in whole.items() if n != "header"} | change)
        )
        with pytest.raises(trainer.DamagedCheckpointError, match=r"x\.npz: damaged"):
            run.restore(tmp_path / "x.npz")
        for variable, old in zip(run.variables, before, strict=True):
            np.testing.assert_array_equal(variable.numpy(), old)
    other = json.dumps(state | {"recipe": state["recipe"] | {"loss": "bce"}})
    np.savez(tmp_path / "x.npz", **(whole | {"header": other, last: np.zeros(3)}))
    with pytest.raises(ValueError, match="was trained with loss bce, not mse"):
        run.restore(tmp_path / "x.npz")


def test_foreign_checkpoints_are_left_alone(tmp_path):
    from training import checkpoints

    for name in ("checkpoint-old.npz", "checkpoint-00007.npz.bak", "checkpoint-00001.npz"):
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "checkpoint-00002.npz")
    assert [path.name for path in checkpoints.find_checkpoints(tmp_path)] == ["checkpoint-00001.npz"]


SCORE = "the score"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ((SCORE, "NaN"), "nan must be a number from 0 to 1"),
        ((SCORE, "7"), "7 must be a number from 0 to 1"),
        ((SCORE, "1e999"), "inf must be a number"),
        ((SCORE, '"0.5"'), "'0.5' must be a number"),
        (('"verdict": "real",\n   "label"', '"verdict": "banana",\n   "label"'), "verdict 'banana'"),
        (('"kind": "image"', '"kind": "face"'), "not a table of scores"),
        (('"kind": "image"', '"kind": ""'), "kind ''"),
        (("bilinear", "nearest"), "was scored with"),
        (('"path"', '"points"'), "not a table of scores"),
    ],
)
def test_edited_tables_are_not_resumed(tmp_path, portrait, change, reason):
    portrait.save(tmp_path / "x.png")
    run_script("deepfakes_images.py", "x.png", "--json", "s.json", cwd=tmp_path)
    text = (tmp_path / "s.json").read_text()
    if change[0] == SCORE:
        change = (re.search(r'"score": ([\d.]+)', text)[1], change[1])
    assert change[0] in text
    (tmp_path / "s.json").write_text(text.replace(*change))
    done = run_script("deepfakes_images.py", "x.png", "--json", "s.json", "--resume", cwd=tmp_path, status=2)
    assert re.search(reason, done.stderr)
    assert (tmp_path / "s.json").read_text() == text.replace(*change)


def test_tables_cut_off_or_of_another_kind_are_not_resumed(tmp_path):
    scores = [Result(pipeline.Item(Path(f"{i}.png"), "", "", ""), 0.5, "real", "") for i in (1, 2)]
    write_json(tmp_path / "s.json", scores, {"settings": "the settings"})
    whole = (tmp_path / "s.json").read_text()
    for text in ("", "\0" * 100, whole[:-10], "a,b\n1,2\n", "{", '{"items": 3, "summary": {"settings": ""}}'):
        (tmp_path / "s.json").write_text(text)
        with pytest.raises(ValueError, match=r"s\.json: not a table of scores"):
            read_json(tmp_path / "s.json")
    item = {"path": "a", "kind": "image", "verdict": "real", "label": "", "error": "", "score": 10**400}
    for change in ({}, {"score": True}, {"score": "0.5"}, {"verdict": None}, {"frames": float("inf")}):
        content = {"items": [item | {"score": 0.5} | change if change else item], "summary": {"settings": ""}}
        (tmp_path / "s.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"s\.json: not a table of scores"):
            read_json(tmp_path / "s.json")


# --- usage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("deepfakes_images.py", ""), "an argument is empty"),
        (("extract_faces.py", "x.mp4", "--output", ""), "an argument is empty"),
        (("deepfakes_images.py", "--min-size", "nan"), "must be a number, not nan"),
        (("extract_faces.py", "--start", "inf"), "must be a number, not inf"),
        (("extract_faces.py", "--output", "README.md"), "README.md must be a folder"),
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


def test_a_video_too_small_to_annotate_costs_itself_alone(tmp_path):
    for name, height in (("a.mkv", 1), ("b.mkv", 64)):
        frames = [np.zeros((height, 64, 3), np.uint8)] * 2
        clips.write_clip(tmp_path / name, frames, "ffv1", pixels="bgr0")
    command = ("a.mkv", "b.mkv", "--annotate", "o", "--csv", "s.csv", "--min-size", "80")
    done = run_script("deepfakes_images.py", *command, cwd=tmp_path, status=1)
    assert "a.mkv: no annotated copy: frames must be at least 2x2 pixels" in done.stderr
    assert len(read_rows(tmp_path / "s.csv")) == 2
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["b.mp4"]


def test_outputs_are_never_taken_for_parts_of_an_extraction():
    paths = [
        Path(name) for name in ("doubtful.mp4", "person1.mp4", "a/person2.mp4", ".writing-x.mp4", "x.mp4")
    ]
    names = pipeline.name_outputs([pipeline.FoundFile(path, "x", path.parts[:-1]) for path in paths])
    assert names == ["doubtful.mp4", "person1.mp4", "a/person2.mp4", "writing-x", "x"]


# --- the same whatever the way --------------------------------------------------------------------


def read_rows(path):
    with open(path, newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file) if row["kind"] != "face"}


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
    portrait = clips.open_portrait()
    for number in range(3):
        poses = [pipeline.Pose(300 + 8 * i + 20 * number, 240, 150, 0) for i in range(4)]
        clips.write_clip(tmp_path / f"{number}.mp4", [clips.film(portrait, pose) for pose in poses])
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
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"  # a zombie
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


def test_no_file_stays_open(tmp_path, portrait):
    clips.write_clip(tmp_path / "x.mp4", [clips.draw_number(i) for i in range(30)])
    portrait.save(tmp_path / "x.png")
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
