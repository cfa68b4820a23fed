"""Damaged and hostile files: read or refused in one line, in time, and nothing of them is run."""

import io
import json
import os
import re
import time

import clips
import h5py
import numpy as np
import pytest
from conftest import ROOT, run_script, start
from PIL import Image
from PIL import ImageFile as PillowFile

import classifiers
import pipeline
from training.recipe import Recipe
from weights import compute_sha256

MUTANTS = 40  # of each format
BOUND = 10  # seconds for any of the files here, on a busy machine


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


FORMATS = [
    *((form, {}) for form in ("PNG", "JPEG", "GIF", "BMP", "PPM", "TIFF", "WEBP")),
    ("JPEG", {"progressive": True}), ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "jpeg"}),
    ("WEBP", {"lossless": True}),
]  # fmt: skip


@pytest.mark.parametrize(("form", "options"), FORMATS)
def test_damaged_images_are_read_or_refused(tmp_path, photo, form, options):
    whole = io.BytesIO()
    photo.resize((96, 96)).save(whole, form, **options)
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(MUTANTS):
        (tmp_path / "x.png").write_bytes(damage(whole.getvalue(), random))  # the suffix tells nothing
        face = read_or_refuse(lambda: pipeline.read_image(tmp_path / "x.png"))
        assert face is None or (face.dtype == np.uint8 and face.ndim == 3 and face.shape[2] == 3)
        refused += face is None
    assert refused


def test_bombs_and_programs_are_refused_before_they_are_unpacked(tmp_path, photo, monkeypatch):
    photo.save(tmp_path / "postscript.png", "EPS")  # a programming language, which Pillow has Ghostscript run
    for form in ("PNG", "TIFF"):  # all others are read as far as their size alike
        Image.new("1", (20_000, 20_000)).save(tmp_path / f"bomb.{form}", form)
    (tmp_path / "absurd.ppm").write_bytes(b"P6 99999999 99999999 255\n" + b"0" * 100)
    (tmp_path / "long.ppm").write_bytes(b"P6 " + b"9" * 5000 + b" 1 255\n")
    unpacked = []
    monkeypatch.setattr(PillowFile.ImageFile, "load", unpacked.append)
    for path in tmp_path.iterdir():
        assert read_or_refuse(lambda path=path: pipeline.read_image(path)) is None
    assert not unpacked


CODECS = {"mp4": "libx264", "mkv": "libx264", "webm": "libvpx-vp9", "avi": "mpeg4", "ts": "mpeg2video"}


@pytest.mark.parametrize("suffix", CODECS)
def test_damaged_videos_are_read_or_refused(tmp_path, suffix):
    frames = [clips.draw_number(i) for i in range(30)]
    whole = clips.write_clip(tmp_path / f"x.{suffix}", frames, CODECS[suffix], {"g": "8"}).read_bytes()
    random = np.random.default_rng(0)
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


def test_files_that_point_elsewhere_are_no_videos(tmp_path):
    """Playlists, pipes: FFmpeg would fetch from networks, read other files, wait for what is to come."""
    os.mkfifo(tmp_path / "pipe.mp4")
    for script in ("extract_faces.py", "deepfakes_images.py"):
        assert "not a regular file" in run_script(script, "pipe.mp4", cwd=tmp_path, status=1).stderr
    clips.write_clip(tmp_path / "x.ts", [clips.draw_number(i) for i in range(5)], "mpeg2video")
    contents = {
        "live.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nx.ts\n",  # more may come
        "concat.mp4": "ffconcat version 1.0\nfile x.ts\n",
        "stream.mp4": "v=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match="not a readable video"):
            list(pipeline.read_frames(tmp_path / name))


@pytest.mark.parametrize("flags", ["+bitexact", "+ilme+ildct"])  # progressive, interlaced
def test_a_video_whose_frames_change_size_or_are_too_large(tmp_path, monkeypatch, flags):
    sizes, joined = [(64, 160, 3), (96, 128, 3)], tmp_path / "joined.ts"
    for size in sizes:
        clips.write_clip(tmp_path / "x.ts", [np.zeros(size, np.uint8)] * 10, "mpeg2video", {"flags": flags})
        with joined.open("ab") as file:
            file.write((tmp_path / "x.ts").read_bytes())
    assert {frame.image.shape for frame in pipeline.read_frames(joined)} == set(sizes)
    monkeypatch.setattr(pipeline, "LARGEST_IMAGE", 1000)
    with pytest.raises(ValueError, match="160x64 pixels: must be at most 1,000 in all"):
        list(pipeline.read_frames(joined))


HOSTILE = {  # what stands in a file in place of an array of this name and shape
    "missing": lambda *_: None,
    "huge": lambda f, n, _: f.create_dataset(n, (10**11,), "f4", chunks=(2**20,), compression=9),
    "text": lambda f, n, s: f.create_dataset(n, s, h5py.string_dtype()),
    "another shape": lambda f, n, _: f.create_dataset(n, (3,), "f4"),
    "no numbers": lambda f, n, s: f.create_dataset(n, s, "f4", np.full(s, np.nan, "f4")),
    "another file": lambda f, n, s: f.create_dataset(n, s, "f4", external=[("/etc/passwd", 0, 99)]),
    "another file's part": lambda f, n, _: f.__setitem__(n, h5py.ExternalLink("/etc/passwd", "x")),
    "itself": lambda f, n, _: f.__setitem__(n, h5py.SoftLink("/" + n)),
}


@pytest.mark.parametrize("change", HOSTILE)
def test_weights_are_loaded_whole_or_not_at_all(tmp_path, change):
    path = tmp_path / "x.weights.h5"
    path.write_bytes((ROOT / "weights/Meso4_DF.weights.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        found = []
        file.visititems(lambda name, item: found.append(name) if getattr(item, "ndim", 0) == 1 else None)
        shape = file[found[0]].shape
        del file[found[0]]
        HOSTILE[change](file, found[0], shape)
    classifier = classifiers.Meso4()
    before = classifier.model.get_weights()
    with pytest.raises(ValueError, match=r"x\.weights\.h5: "):
        classifier.load(path)
    for weights, old in zip(classifier.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weights, old)


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


@pytest.mark.parametrize("name", ["Meso4_DF.tflite", "Meso4_DF.weights.h5", "Meso4_DF.h5"])
def test_damaged_weights_crash_nothing(request, tmp_path, name):
    """Even where their card vouches for them. In a process of its own, lest a crash end the tests."""
    authors = name == "Meso4_DF.h5"
    source = (request.getfixturevalue("shared") / "published_weights" if authors else ROOT / "weights") / name
    card = json.loads((ROOT / "weights/Meso4_DF.json").read_text())
    random, ending = np.random.default_rng(0), name.partition(".")[2]
    paths = [tmp_path / f"{number}.{ending}" for number in range(MUTANTS)]
    for number, path in enumerate(paths):
        path.write_bytes(damage(source.read_bytes(), random))
        card["sha256"] = {path.name: compute_sha256(path)}
        (tmp_path / f"{number}.json").write_text(json.dumps(card))
    process = start("-c", TRY_WEIGHTS, ROOT, *paths)
    outcomes = process.communicate(timeout=120)[0].splitlines()
    assert (process.returncode, len(outcomes)) == (0, MUTANTS)
    assert {outcome.split()[0] for outcome in outcomes} == {"loaded", "refused"}


def test_a_damaged_checkpoint_is_refused_and_runs_no_code(tmp_path):
    """They are NumPy's archives, whose objects would be pickles: code."""
    from training import trainer

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    run = trainer.Trainer(Recipe())
    run.history.append({"epoch": 1})
    run.save(tmp_path)
    with np.load(tmp_path / "checkpoint.npz") as arrays:
        whole = dict(arrays)
    run.restore(tmp_path / "checkpoint.npz")
    assert run.history == [{"epoch": 1}]
    damaged = [{"history": text} for text in ("{", "[" * 100_000, np.array([Bomb()], dtype=object))]
    for change in (*damaged, {f"variable_{len(whole) - 2}": np.zeros(3)}):
        np.savez(tmp_path / "x.npz", **(whole | change))
        with pytest.raises(ValueError, match=r"x\.npz: damaged"):
            run.restore(tmp_path / "x.npz")
    assert not (tmp_path / "pwned").exists()


def test_a_video_that_is_cut_short_says_so(tmp_path):
    frames = [clips.draw_number(i, 256, 320) for i in range(250)]
    for name, options in (("x.mkv", {}), ("x.mp4", {"movflags": "faststart"})):
        path = clips.write_clip(tmp_path / name, frames, options={"g": "12"}, **options)
        assert pipeline.read_timeline(path).note == ""
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
        note = pipeline.read_timeline(path).note
        assert re.fullmatch(r"cut short: the last [23]\.\d of 10\.0 s are missing", note)
        read = list(pipeline.read_frames(path, 20))
        assert 18 <= len(read) <= 20
        assert [clips.read_number(f.image) for f in read[:-1]] == [f.index for f in read[:-1]]
    slides = clips.write_clip(tmp_path / "slides.mkv", frames[:2], stamps=[0, 5000])
    assert pipeline.read_timeline(slides).note == ""


SLEEP = """
import os, sys, time; sys.path.insert(0, sys.argv[1])
import pipeline
def work(number, **_):
    print(os.getpid(), flush=True)
    time.sleep(100)
list(pipeline.run_jobs(work, [(1,), (2,)], {}, jobs=2))
"""


def test_the_processes_of_a_killed_run_end():
    process = start("-c", SLEEP, ROOT)
    workers = {int(process.stdout.readline()) for _ in range(2)}
    assert len(workers | {process.pid}) == 3
    process.kill()
    process.communicate(timeout=BOUND)  # their output ends with the last of them
