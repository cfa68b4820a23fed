"""Videos and photographs scored: rows, people, tables, resuming, annotated copies, maps of evidence."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import av
import keras
import numpy as np
import pytest
from clips import RATE, draw_number, film, find_landmarks, forge_face, open_portrait, write_clip
from conftest import ROOT, run_script
from PIL import Image

import pipeline
from classifiers import scale_pixels
from training.extraction import extract_video
from weights import find_weights, load_predictor, media
from weights.figures import compute_logits, map_evidence
from weights.media import interpolate_faces, score_file
from weights.scores import lowest_person_score
from weights.table import read_json

WEIGHTS = find_weights("Meso4_DF")


@pytest.fixture(scope="module")
def portrait():
    return open_portrait()


@pytest.fixture(scope="module")
def clips(portrait, tmp_path_factory):
    """Folder of videos: one person, real; one, forged; two side by side, the right one forged; none."""
    folder = tmp_path_factory.mktemp("clips")
    other = open_portrait("collins")
    forged = forge_face(other, find_landmarks(other))
    people = {"real/collins": (None, other), "df/forged": (None, forged), "pair": (portrait, forged)}
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


@pytest.fixture
def mixed(clips, tmp_path):
    """Videos, images and what is neither, in one folder."""
    folder = tmp_path / "mixed"
    shutil.copytree(clips, folder)
    shutil.copy(ROOT / "test_images/real/obama.png", folder / "real/obama.png")
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def test_rows_of_videos(clips):
    done = run_script("deepfakes_images.py", clips / "real", clips / "df", cwd=ROOT)
    lines = done.stdout.splitlines()
    assert lines[0] == " score  faces  %deepfake  verdict   video"
    score, faces, share, verdict, path = lines[1].split()
    assert (faces, share, verdict, path) == ("8", "0.0", "real", f"{clips}/real/collins.mp4")
    assert float(score) > 0.5
    score, faces, share, verdict, _ = lines[2].split()
    assert (faces, share, verdict) == ("8", "100.0", "deepfake")
    assert float(score) < 0.1
    assert "Classified as deepfake/f2f: 50.0 % (1 of 2 videos)" in lines
    assert "Accuracy over videos: all 1.000, df 1.000, real 1.000, balanced 1.000, AUC 1.000" in lines
    assert done.stderr == ""


def test_scores_are_of_the_faces_extracted(clips, tmp_path):
    """Same frames, same crops: what extract_faces.py writes, scored, is what the video scores."""
    clip = clips / "real/collins.mp4"
    extract_video(clip, tmp_path / "faces", pipeline.FaceOptions(frames=5))
    run_script("deepfakes_images.py", clip, "--frames", "5", "--json", tmp_path / "video.json")
    run_script("deepfakes_images.py", tmp_path / "faces", "--json", tmp_path / "faces.json")
    video, *faces = json.loads((tmp_path / "video.json").read_text())["items"]
    crops = json.loads((tmp_path / "faces.json").read_text())["items"]
    assert [face["score"] for face in faces] == pytest.approx([crop["score"] for crop in crops], abs=2e-6)
    assert video["score"] == pytest.approx(np.mean([face["score"] for face in faces]), abs=2e-6)


def test_the_worst_person_decides(clips, tmp_path):
    run_script("deepfakes_images.py", clips / "pair.mp4", "--everyone", "--json", tmp_path / "o.json")
    video, *faces = json.loads((tmp_path / "o.json").read_text())["items"]
    means = {}
    for face in faces:
        assert face["left"] < face["x"] < face["right"]
        means.setdefault("left" if face["x"] < 320 else "right", []).append(face["score"])
    assert {side: len(scores) for side, scores in means.items()} == {"left": 8, "right": 8}
    assert len({face["person"] for face in faces}) == 2
    assert np.mean(means["right"]) < 0.2 < np.mean(means["left"])
    assert video["score"] == pytest.approx(np.mean(means["right"]), abs=1e-6)
    assert video["verdict"] == "deepfake"


def test_who_is_hardly_seen_decides_nothing():
    assert lowest_person_score({1: (0.9, 20), 2: (0.1, 2)}) == 0.9
    assert lowest_person_score({1: (0.9, 20), 2: (0.1, 3)}) == 0.1
    assert lowest_person_score({1: (0.9, 2), 2: (0.1, 1)}) == 0.1
    assert lowest_person_score({}) is None


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
        wanted = f"Meso4_DF.tflite {digest}, bilinear, align False"
        assert row.pop("settings").startswith(wanted)
        assert {k: v for k, v in row.items() if v} == {
            k: str(v) for k, v in item.items() if v not in (None, "")
        }
    summary = json.loads((tmp_path / "o.json").read_text())["summary"]
    assert (summary["files"], summary["scored"], summary["no_face"], summary["skipped"]) == (6, 4, 1, 1)
    assert (summary["images"]["files"], summary["videos"]["files"]) == (1, 5)
    assert summary["videos"]["no_face"] == 1
    assert "photos" not in summary  # what did not occur has no verdict


def test_resume_takes_the_table_that_is_there(tmp_path):
    shutil.copy(ROOT / "test_images/real/obama.png", tmp_path / "a.png")
    command = ["deepfakes_images.py", tmp_path / "a.png", "--json", tmp_path / "s.json"]
    command += ["--weights", "Meso4_DF"]
    run_script(*command)
    text = (tmp_path / "s.json").read_text()
    (tmp_path / "s.json").write_text(re.sub(r'"score": 0\.9\d+,', '"score": 0.77,', text))
    done = run_script(*command, "--csv", tmp_path / "s.csv", "--resume")
    assert "0.7700  real" in done.stdout  # as the table had it
    # scores do not depend on the threshold, verdicts do
    assert "0.7700  deepfake" in run_script(*command, "--resume", "--threshold", "0.8").stdout
    shutil.copy(ROOT / "weights/Meso4_F2F.tflite", tmp_path / "Meso4_DF.tflite")
    card = json.loads((ROOT / "weights/Meso4_F2F.json").read_text())
    card["sha256"] = {"Meso4_DF.tflite": card["sha256"]["Meso4_F2F.tflite"]}
    card["threshold"] = find_weights("Meso4_DF").threshold
    (tmp_path / "Meso4_DF.json").write_text(json.dumps(card))
    done = run_script(*command, "--resume", "--weights", tmp_path / "Meso4_DF.tflite", status=2)
    assert "was scored with Meso4_DF.tflite" in done.stderr  # of the same name, but others


def test_resume_after_a_kill(clips, tmp_path):
    for i in range(4):
        shutil.copy(clips / "pair.mp4", tmp_path / f"{i}.mp4")
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
        assert re.search(
            r"o\.json was scored with Meso4_DF\.tflite \w{8}, bilinear, align False", other.stderr
        )
    (tmp_path / "o.json").write_text("{}")
    assert "not a table of scores" in run_script(*command[1:], "--resume", status=2).stderr


def test_jobs_give_the_same(clips, tmp_path):
    for jobs in ("1", "2"):
        run_script("deepfakes_images.py", clips, "--json", tmp_path / jobs, "--jobs", jobs, status=1)
    one, two = (read_json(tmp_path / jobs)[0] for jobs in ("1", "2"))
    assert list(one) == list(two)
    for path, score in one.items():
        assert score._replace(score=None, faces=()) == two[path]._replace(score=None, faces=())
        for a, b in zip(score.faces, two[path].faces, strict=True):
            assert a._replace(score=0) == b._replace(score=0)
            assert a.score == pytest.approx(b.score, abs=2e-6)  # another number of threads


def test_photographs_are_aligned_first(portrait, tmp_path):
    other = open_portrait("obama")
    left = film(portrait, pipeline.Pose(160, 240, 140, 20))[:, :320]
    right = film(other, pipeline.Pose(480, 240, 150, -30))[:, 320:]
    pair = np.concatenate((left, right), axis=1)
    Image.fromarray(pair).save(tmp_path / "pair.png")
    Image.fromarray(portrait).save(tmp_path / "one.jpg", quality=95)
    Image.fromarray(np.full((200, 300, 3), 99, np.uint8)).save(tmp_path / "wall.png")
    done = run_script("deepfakes_images.py", tmp_path, "--align", "--json", tmp_path / "o.json",
                      "--annotate", tmp_path / "annotated", status=1)  # fmt: skip
    assert "No face found: 1 of 3 photographs" in done.stdout
    items = json.loads((tmp_path / "o.json").read_text())["items"]
    faces = {}
    for item in items:
        if item["kind"] == "face":
            faces.setdefault(os.path.basename(item["path"]), []).append(item)
    assert {name: len(found) for name, found in faces.items()} == {"one.jpg": 1, "pair.png": 2}
    assert sorted(round(face["angle"], -1) for face in faces["pair.png"]) == [-30, 20]
    lowest = min(face["score"] for face in faces["pair.png"])
    assert next(i for i in items if i["path"].endswith("pair.png"))["score"] == lowest
    copy = pipeline.read_image(tmp_path / "annotated/pair.png")
    assert copy.shape == pair.shape
    left = faces["pair.png"][0]
    assert (
        np.abs(copy[left["top"], left["left"] + 5].astype(int) - pair[left["top"], left["left"] + 5]).max()
        > 20
    )


def test_hint_where_photographs_are_taken_for_faces(tmp_path, portrait):
    Image.fromarray(portrait[:, :300]).save(tmp_path / "tall.png")
    done = run_script("deepfakes_images.py", tmp_path)
    assert done.stderr.startswith("hint: 1 of 1 images are not square")
    assert "--align" in done.stderr


def write_sounding(path, frames, codec):
    """Write a clip with a second of tone, stored as `codec`."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", RATE)
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = "yuv420p"
        sound = container.add_stream(codec, rate=44100)
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(video.encode())
        tone = (np.sin(np.arange(44100) / 16) * 9000).astype(np.int16)[None]
        samples = av.AudioFrame.from_ndarray(tone, "s16", "mono")
        samples.sample_rate, samples.pts = 44100, 0
        container.mux(sound.encode(samples))
        container.mux(sound.encode())
    return path


@pytest.mark.parametrize(
    ("name", "codec"), [("aac.mp4", "aac"), ("pcm.mkv", "pcm_s16le"), ("mp3.avi", "libmp3lame")]
)
def test_annotated_video(portrait, tmp_path, name, codec):
    forged = forge_face(portrait, find_landmarks(portrait))
    frames = [film(forged, pipeline.Pose(250 + 4 * i, 240, 180, 0), (501, 401)) for i in range(25)]
    frames = [np.ascontiguousarray(frame[:400, :500]) for frame in frames]
    clip = write_sounding(tmp_path / name, frames, codec)
    run_script("deepfakes_images.py", clip, "--every", "5", "--annotate", tmp_path / "out",
               "--json", tmp_path / "o.json")  # fmt: skip
    target = tmp_path / f"out/{name.partition('.')[0]}.mp4"
    assert os.listdir(tmp_path / "out") == [target.name]
    with av.open(str(target)) as container:
        (video,), (sound,) = container.streams.video, container.streams.audio
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert sound.codec_context.name == "aac"
        assert float(sound.duration * sound.time_base) == pytest.approx(1, abs=0.1)
        loudness = [np.abs(f.to_ndarray().astype(float)).mean() for f in container.decode(audio=0)]
    assert max(loudness) > 0.05
    found = list(pipeline.read_frames(target, every=1))
    assert [f.index for f in found] == list(range(25))
    np.testing.assert_allclose([f.time for f in found], np.arange(25) / RATE, atol=1e-3)
    video, *faces = json.loads((tmp_path / "o.json").read_text())["items"]
    assert [face["frame"] for face in faces] == [0, 5, 10, 15, 20]
    assert video["verdict"] == "deepfake"
    for frame, original in zip(found, frames, strict=True):
        known = faces[min(frame.index // 5, 4)]
        edge = frame.image[(known["top"] + known["bottom"]) // 2].astype(int)
        red = (edge[:, 0] > 150) & (edge[:, 1] < 90) & (edge[:, 2] < 90)
        # the box moves along: 4 pixels a frame, until the last frame sampled
        left = np.flatnonzero(red)[0]
        moved = 4 * min(frame.index - known["frame"], 20 - known["frame"])
        assert left == pytest.approx(known["left"] + moved, abs=8)
        changed = np.abs(frame.image.astype(int) - original).max(axis=2) > 60
        assert changed[:25, :60].any()  # the verdict
        assert changed[-30:, :].mean() < 0.1


def test_annotated_image(tmp_path):
    run_script("deepfakes_images.py", "test_images", "--annotate", tmp_path)
    names = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.glob("*/*.png"))
    assert names == sorted(
        str(p.relative_to(ROOT / "test_images")) for p in (ROOT / "test_images").glob("*/*.png")
    )
    original = pipeline.read_image(ROOT / "test_images/df/obama.png")
    copy = pipeline.read_image(tmp_path / "df/obama.png")
    assert (copy[0, 0] == (214, 39, 40)).all()
    assert (copy[100:] == original[100:]).all()


def test_boxes_vanish_where_no_face_was_found():
    def face(frame, left):
        return pipeline.Face(frame, 0, (left, 0, left + 10, 10), pipeline.Pose(0, 0, 10, 0), 1, score=0.5)

    faces = {0: [face(0, 0)], 10: [face(10, 10)], 20: [], 30: [], 40: [face(40, 40)]}
    boxes = [interpolate_faces(faces, list(faces), i) for i in range(50)]
    expected = [*range(10), *[10] * 10, *[None] * 20, *[40] * 10]
    assert [b[0].box[0] if b else None for b in boxes] == expected


def test_inputs_are_never_overwritten(clips, tmp_path):
    shutil.copy(clips / "real/collins.mp4", tmp_path / "a.mp4")
    shutil.copy(ROOT / "test_images/real/obama.png", tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for option in ("--annotate", "--explain"):
        done = run_script("deepfakes_images.py", tmp_path, option, tmp_path, status=2)
        assert "would overwrite an input" in done.stderr
    for option in ("--csv", "--json", "--plot"):
        image = tmp_path / "obama.png"
        done = run_script("deepfakes_images.py", image, option, image, status=2)
        assert "would overwrite an input" in done.stderr
    for option in ("--annotate", "--explain"):
        run_script("deepfakes_images.py", tmp_path, option, tmp_path / "a.mp4/x", status=2)
    done = run_script("extract_faces.py", tmp_path / "a.mp4", "--output", tmp_path, "--force", status=1)
    assert "which is no face: name another --output" in done.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_copy_that_fails_costs_no_score(clips, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("full")

    monkeypatch.setattr(media, "annotate", fail)
    (((item, _),), _) = pipeline.find_media([clips / "pair.mp4"])
    found = score_file(item, tmp_path / "x.mp4", WEIGHTS, pipeline.FaceOptions(frames=3))
    assert found.verdict in ("real", "deepfake")
    assert found.score is not None
    assert found.error == "no annotated copy: full"
    assert os.listdir(tmp_path) == []


def test_several_threads_share_the_network(noise):
    predict = load_predictor(WEIGHTS)
    expected = [predict(noise[: i % 4 + 1]) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for i, found in enumerate(pool.map(lambda i: predict(noise[: i % 4 + 1]), range(80))):
            np.testing.assert_array_equal(found, expected[i % 8])


def test_plot_of_videos(clips, tmp_path):
    run_script("deepfakes_images.py", clips / "pair.mp4", clips / "real", "--plot", tmp_path / "o.png")
    assert pipeline.read_image(tmp_path / "o.png").shape == (640, 1100, 3)
    both = run_script("deepfakes_images.py", clips, "test_images", "--plot", tmp_path / "x.png", status=2)
    assert both.stderr == "deepfakes_images.py: --plot takes images or videos, not both\n"
    nobody = clips / "nobody.mp4"
    assert (
        "no score to draw"
        in run_script("deepfakes_images.py", nobody, "--plot", tmp_path / "x.png", status=1).stderr
    )
    assert not (tmp_path / "x.png").exists()


def test_logits_are_those_of_the_network(noise):
    from classifiers import load_classifier

    classifier = load_classifier(WEIGHTS.path.with_name("Meso4_DF.weights.h5"))
    last = classifier.model.layers[-1]
    hidden = keras.Model(classifier.model.inputs, last.input).predict_on_batch(scale_pixels(noise))
    kernel, bias = last.get_weights()
    found = compute_logits(load_predictor(WEIGHTS)(noise))
    np.testing.assert_allclose(found, (hidden @ kernel + bias)[:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("half", ["left", "right", "upper", "lower"])
@pytest.mark.parametrize("name", ["collins", "hopper"])
def test_the_map_finds_a_planted_artefact(name, half):
    """Half of a real face is forged: there, not in the other half, more speaks for forged than before."""
    face, forged = (
        pipeline.load_face(ROOT / f"test_images/{label}/{name}.png", "bilinear") for label in ("real", "df")
    )
    where = {"left": np.s_[:, :128], "right": np.s_[:, 128:], "upper": np.s_[:128], "lower": np.s_[128:]}[
        half
    ]
    planted = face.copy()
    planted[where] = forged[where]
    before, evidence = (map_evidence(f, load_predictor(WEIGHTS)) for f in (face, planted))
    inside = np.zeros((256, 256), bool)
    inside[where] = True
    assert evidence.shape == (256, 256)
    assert inside[np.unravel_index((evidence - before).argmax(), evidence.shape)]
    assert evidence[inside].mean() > evidence[~inside].mean()


def test_explained(clips, tmp_path):
    run_script("deepfakes_images.py", clips / "pair.mp4", ROOT / "test_images/real/obama.png",
               "--explain", tmp_path / "out", "--frames", "3")  # fmt: skip
    assert sorted(os.listdir(tmp_path / "out")) == ["obama.png", "pair.png"]
    for path in (tmp_path / "out").iterdir():
        assert pipeline.read_image(path).std() > 10


def test_tensorflow_is_not_imported_for_videos(clips):
    code = (
        "import sys, deepfakes_images as d; sys.argv = ['x', sys.argv[1], '--frames', '2']; d.main();"
        "sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, clips / "real/collins.mp4"], cwd=ROOT, check=True)
