"""What scoring writes: a folder of tables, a page, annotated copies, maps of evidence."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import av
import clips
import numpy as np
import pytest
from clips import RATE, film, find_landmarks, forge_face
from conftest import ROOT, read_items, read_rows, read_table, run_script

import pipeline
from weights import DEFAULT, Rule, compute_sha256, find_weights, load_predictor
from weights.scoring.annotate import interpolate_faces
from weights.scoring.figures import measure_evidence, measure_normal
from weights.scoring.report import describe_verdict
from weights.scoring.results import read_json
from weights.scoring.scores import Result
from weights.scoring.verdicts import decide, describe_times

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SCRIPT = "deepfakes_images.py"
HOSTILE = "<script>alert(1)<\u2215script>&.png"


@pytest.fixture(scope="module")
def folder(films, photo, tmp_path_factory):
    """Results of videos, crops, one of a hostile name, one that is no image and one whose name is no text."""
    folder = tmp_path_factory.mktemp("results")
    photo.save(folder / HOSTILE)
    photo.save(os.fsencode(folder) + b"/not-utf8-\xff.png", "PNG")
    (folder / "broken.jpg").write_text("no image")
    command = [SCRIPT, films, ".", ROOT / "test_images", "--everyone", "--output", "out"]
    run_script(*command, "--annotate", "--explain", cwd=folder, status=1)
    return folder / "out"


def test_the_tables_hold_everything(folder, films):
    items, rows = read_items(folder), read_rows(folder)
    files = [item for item in items if item["kind"] != "face"]
    assert len(rows) == len(files) == 15
    pair = rows[str(films / "pair.mp4")]
    assert (pair["verdict"], pair["frames"], pair["faces"]) == ("deepfake", "8", "16")
    assert pair["settings"].startswith(f"{DEFAULT}.tflite ")
    faces = read_table(folder / "faces.csv")
    assert len(faces) == len(items) - len(files) == 32
    first = [faces[0][name] for name in ("path", "frame", "time")]
    assert first == [str(films / "pair.mp4"), "0", "0.0"]
    assert all(float(face["left"]) < float(face["x"]) < float(face["right"]) for face in faces)
    summary = json.loads((folder / "results.json").read_text())["summary"]
    assert (summary["files"], summary["scored"], summary["no_face"], summary["skipped"]) == (15, 13, 1, 1)
    assert (summary["images"]["files"], summary["videos"]["files"]) == (11, 4)
    assert "photos" not in summary
    # results.json keeps the exact name
    assert {"not-utf8-\\udcff.png", HOSTILE} <= {os.path.basename(path) for path in read_rows(folder)}
    assert any(item["path"].endswith("not-utf8-\udcff.png") for item in read_items(folder))


def test_no_name_is_a_formula(tmp_path, photo):
    names = ("=1+1.png", "\t=2.png", "@x.png")
    for name in names:
        photo.resize((64, 64)).save(tmp_path / name)
    run_script(SCRIPT, *names, "--output", "out", cwd=tmp_path)
    assert set(read_rows(tmp_path / "out")) == {f"./{name}" for name in names}


def test_the_same_command_continues(tmp_path, photo):
    for name in ("a", "b", "c"):
        photo.resize((100, 100)).save(tmp_path / f"{name}.png")
    command, annotated = [SCRIPT, ".", "--output", "out"], tmp_path / "out/annotated"
    run_script(*command, cwd=tmp_path)
    path = tmp_path / "out/results.json"
    path.write_text(path.read_text().replace('"note": ""', '"note": "kept"'))  # what is scored again shows
    photo.resize((90, 90)).save(tmp_path / "b.png")
    (tmp_path / "c.png").unlink()
    photo.resize((80, 80)).save(tmp_path / "d.png")
    run_script(*command, "--threshold", "0.999", "--annotate", cwd=tmp_path)
    rows = read_rows(tmp_path / "out")
    notes = {name: row["note"] for name, row in rows.items()}
    assert notes == {"a.png": "kept", "b.png": "", "c.png": "kept", "d.png": ""}
    assert rows["a.png"]["verdict"] == "deepfake"  # by the new threshold
    assert {path.name for path in annotated.iterdir()} == {"a.png", "b.png", "d.png"}
    before = (annotated / "a.png").stat().st_mtime_ns
    run_script(*command, "--threshold", "0.999", "--annotate", cwd=tmp_path)
    assert (annotated / "a.png").stat().st_mtime_ns == before
    run_script(*command, "--annotate", cwd=tmp_path)  # other verdicts
    assert (annotated / "a.png").stat().st_mtime_ns > before
    for option in (("--weights", "Meso4_DF"), ("--frames", "5")):
        done = run_script(*command, *option, cwd=tmp_path, status=2)
        assert re.search(rf"--output out: was scored with {DEFAULT}\.tflite .*--force", done.stderr)
    run_script(*command, "--weights", "Meso4_DF", "--force", cwd=tmp_path)
    assert {row["note"] for row in read_rows(tmp_path / "out").values()} == {""}
    assert not annotated.exists()


def test_folders_of_others_are_never_touched(tmp_path):
    image = ROOT / "test_images/real/obama.png"
    for name in ("notes.txt", "results.csv", "annotated"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text("mine")
        for force in ((), ("--force",)):
            done = run_script(SCRIPT, image, "--output", folder, *force, status=2)
            assert "so it is not ours: name another folder" in done.stderr
        assert (folder / name).read_text() == "mine"
    (tmp_path / "out/.writing-x").mkdir(parents=True)  # of a run that was killed at once
    run_script(SCRIPT, image, "--output", tmp_path / "out", "--annotate")
    (tmp_path / "out/annotated/mine.txt").write_text("mine")
    run_script(SCRIPT, image, "--output", tmp_path / "out", "--force", status=2)
    assert "must be a folder" in run_script(SCRIPT, image, "--output", image, status=2).stderr
    run_script(SCRIPT, image, "--output", "/proc/none", status=2)


@pytest.mark.parametrize(
    ("old", "new"),
    [('"score": 0.', '"score": 7.'), ('"kind": "video"', '"kind": "song"'), ("{", "["), ('"stamp"', '"x"'),
     ('"items"', '"others"'), ('"size": ', '"size": 9999')],
)  # fmt: skip
def test_damaged_tables_are_refused(folder, tmp_path, old, new):
    """A face of that size would be cut out to be shown."""
    text = (folder / "results.json").read_text()
    assert sum(len(result.faces) for result in read_json(folder / "results.json", Rule())[0].values()) == 32
    (tmp_path / "results.json").write_text(text.replace(old, new))
    done = run_script(SCRIPT, "test_images", "--output", tmp_path, status=2)
    assert re.search(r"results\.json: damaged, or not written by this program \(.*\): --force", done.stderr)


def test_the_page_answers_first(folder, films):
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert re.search(r"<h1>6 of 13 look forged</h1>", text)
    table, _, files = text.partition("<h2>The files")
    assert table.count("<tr>") == 1 + 15
    assert files.count("<article") == 15
    assert re.search(r"forged\.mp4</a><br>Looks forged in 8 of 8 frames, like \w+\.", table)
    assert re.search(r"pair\.mp4</a><br>Looks forged in 8 of 8 frames, like \w+\.", table)
    scores = [float(value) for value in re.findall(r">score (\d\.\d+)", table)]
    assert scores == sorted(scores)
    for words in ("1 = natural, 0 = deepfake/f2f", "It is not a probability", "No face was found",
                  "not an image", "the lowest of 2 people decides", "this program 1.0, Python 3.",
                  "<td>df</td>", "ROC curve", "real, 3 were called deepfake"):  # fmt: skip
        assert words in text, words
    assert compute_sha256(films / "pair.mp4") in text
    assert compute_sha256(ROOT / f"weights/{DEFAULT}.tflite") in text
    assert not re.search(r"logit|face that counts|Nothing unusual", text)
    assert all(re.findall(r'<img[^>]* alt="([^"]*)"', text))
    assert len(re.findall(r'<img[^>]* alt="', text)) == text.count("<img")
    # nothing is fetched, and no name is run
    assert set(re.findall(r'(?:src|href)="([^:"#]*):', text)) == {"data"}
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert (folder / "report.html").stat().st_size < 15 * 150_000


@pytest.mark.skipif(not CHROMIUM, reason="needs chromium: apt-get install chromium")
def test_a_browser_shows_it(folder, tmp_path):
    def look(name, width, *options):
        page, target = (folder / "report.html").as_uri(), tmp_path / name
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *options]
        command += [f"--window-size={width},1500", f"--screenshot={target}", page]
        subprocess.run(command, capture_output=True, check=True, timeout=120)
        return pipeline.read_image(target)

    wide, narrow = look("wide.png", 1000), look("narrow.png", 500)
    assert min(np.median(wide), np.median(narrow)) > 240
    assert (narrow[:, -6:] == 255).mean() > 0.99  # nothing runs over the right edge
    assert np.median(look("dark.png", 1000, "--blink-settings=preferredColorScheme=0")) < 40


def test_sentences_say_what_is_so():
    photo = Result(pipeline.Item(Path("a.png"), "a", kind="photo"), 0.5, "uncertain")
    assert describe_verdict(photo, Rule()) == "Undecided."
    clip = Result(pipeline.Item(Path("a.mp4"), "a", kind="video"), 0.5, "uncertain", frames=9)
    assert describe_verdict(clip, Rule()) == "Undecided."
    clip = clip._replace(warning="too few clear faces to decide, 9 of 9 faces dark")
    assert describe_verdict(clip, Rule()) == f"Undecided: {clip.warning}."
    forged = pipeline.Face(3, 0.1, (0, 0, 9, 9), pipeline.Pose(0, 0, 99, 0), 1, 99.0, score=0.01)
    clip = Result(clip.item, 0.9, "real", frames=9, faces=(forged,))
    assert describe_verdict(clip, Rule()) == "Real on average, but looks forged in 1 of 9 frames."
    scores = (0.9, 0.2, 0.1, 0.3, 0.8, 0.3, 0.8, 0.9)
    faces = tuple(forged._replace(time=i / 2, score=s) for i, s in enumerate(scores))
    other = tuple(face._replace(person=2, score=0.9) for face in faces)  # the lowest of each time counts
    assert describe_times((*faces, *other), Rule()) == "from 0.5 to 1.5 s"
    assert describe_times(faces[:3], Rule()) == ""
    assert decide(faces, "video", Rule())[2] == "looks forged from 0.5 to 1.5 s"
    assert decide(faces[1:4], "video", Rule())[1:] == ("deepfake", "")


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "aac"), ("a.mkv", "pcm_s16le"), ("a.avi", "libmp3lame")]
)
def test_annotated_video(portrait, tmp_path, name, codec):
    forged = forge_face(portrait, find_landmarks(portrait))
    frames = [film(forged, pipeline.Pose(250 + 4 * i, 240, 180, 0), (501, 401)) for i in range(25)]
    frames = [np.ascontiguousarray(frame[:400, :500]) for frame in frames]
    clip = clips.write_clip(tmp_path / name, frames, sound=codec)
    run_script(SCRIPT, clip, "--frames", "5", "--annotate", "--output", tmp_path / "out")
    with av.open(str(tmp_path / "out/annotated/a.mp4")) as container:
        (video,), (sound,) = container.streams.video, container.streams.audio
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert sound.codec_context.name == "aac"
        assert float(sound.duration * sound.time_base) == pytest.approx(1, abs=0.1)
        loudness = [np.abs(f.to_ndarray().astype(float)).mean() for f in container.decode(audio=0)]
    assert max(loudness) > 0.05
    found = list(pipeline.read_frames(tmp_path / "out/annotated/a.mp4", None))
    np.testing.assert_allclose([f.time for f in found], np.arange(25) / RATE, atol=1e-3)
    video, *faces = read_items(tmp_path / "out")
    assert [face["frame"] for face in faces] == [0, 6, 12, 18, 24]
    assert video["verdict"] == "deepfake"
    for frame, original in zip(found, frames, strict=True):
        known = faces[frame.index // 6]
        edge = frame.image[(known["top"] + known["bottom"]) // 2].astype(int)
        left = np.flatnonzero((edge[:, 0] > 140) & (edge[:, 1] < 90) & (edge[:, 2] < 90))[0]
        moved = 4 * (frame.index - known["frame"])
        assert left == pytest.approx(known["left"] + moved, abs=8)
        changed = np.abs(frame.image.astype(int) - original).max(axis=2) > 60
        assert changed[:25, :60].any()  # the verdict
        assert changed[-30:, :].mean() < 0.1


def test_annotated_pictures_and_copies_that_fail(tmp_path):
    shutil.copytree(ROOT / "test_images/df", tmp_path / "df")
    for height, name in ((1, "a.mkv"), (64, "b.mkv")):
        frames = [np.zeros((height, 64, 3), np.uint8)] * 2
        clips.write_clip(tmp_path / name, frames, "ffv1", pixels="bgr0")
    done = run_script(SCRIPT, ".", "--annotate", "--output", "out", cwd=tmp_path, status=1)
    assert "a.mkv: no annotated copy: frames must be at least 2x2 pixels" in done.stderr
    folder = tmp_path / "out/annotated"
    copies = {str(path.relative_to(folder)) for path in folder.glob("**/*.*")}
    assert copies == {"b.mp4", *(f"df/{name}.png" for name in ("biden", "collins", "hopper", "obama"))}
    copy = pipeline.read_image(folder / "df/obama.png")
    assert (copy[0, 0] == (198, 40, 40)).all()
    assert (copy[100:] == pipeline.read_image(tmp_path / "df/obama.png")[100:]).all()


def test_sound_that_changes_costs_no_copy(portrait, tmp_path):
    frame = film(portrait, pipeline.Pose(320, 240, 180, 0))
    for codec in ("aac", "mp2"):
        clips.write_clip(tmp_path / f"{codec}.ts", [frame] * 25, sound=codec)
    (tmp_path / "x.ts").write_bytes(b"".join((tmp_path / f"{c}.ts").read_bytes() for c in ("aac", "mp2")))
    command = [SCRIPT, tmp_path / "x.ts", "--frames", "2", "--annotate", "--output", tmp_path / "out"]
    done = run_script(*command)
    assert re.search(r"x\.ts: its copy has no sound after 1\.\d s \(.+\)$", done.stderr)
    assert len(list(pipeline.read_frames(tmp_path / "out/annotated/x.mp4", None))) == 50


def test_boxes_vanish_where_no_face_was_found():
    def face(frame, left):
        return pipeline.Face(frame, 0, (left, 0, left + 10, 10), pipeline.Pose(0, 0, 10, 0), 1, score=0.5)

    faces = {0: [face(0, 0)], 10: [face(10, 10)], 20: [], 40: [face(40, 40)], 30: []}  # 30: for a damaged one
    boxes = [interpolate_faces(faces, i) for i in range(60)]
    expected = [*range(10), *[10] * 10, *[None] * 20, 40, *[None] * 19]
    assert [b[0].box[0] if b else None for b in boxes] == expected


def test_a_map_finds_a_planted_artefact(noise):
    def predict(faces):  # forged is what is bright in the upper left quarter
        return 1 / (1 + np.exp(faces[:, :128, :128].mean(axis=(1, 2, 3)) / 20 - 5))[:, None]

    face = np.full((256, 256, 3), 40, np.uint8)
    face[200:, 200:] = 255  # among which pixels are shuffled
    patches = measure_evidence(face, predict)
    assert patches.shape == (15, 15)
    assert (patches[:7, :7] < -0.01).all()  # hiding makes it brighter there
    assert np.abs(patches[8:, 8:]).max() == 0
    maps = measure_normal(noise, load_predictor(find_weights("Meso4_DF")))
    assert maps["faces"] == len(noise)
    assert 0 < maps["usual"] <= maps["limit"]
