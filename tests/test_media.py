"""Videos and photographs scored, and their annotated copies."""

import json
import os
import re
import shutil

import av
import clips
import numpy as np
import pytest
from clips import RATE, film, find_landmarks, forge_face, open_portrait
from conftest import ROOT, read_rows, run_script
from PIL import Image

import pipeline
from training.extraction import extract_video
from weights import find_weights, media
from weights.scoring.annotate import interpolate_faces, score_file

WEIGHTS = find_weights("Meso4_DF")


def test_scores_are_of_the_faces_extracted(films, tmp_path):
    """Same frames, same crops: what extract_faces.py writes, scored, is what the video scores."""
    clip = films / "real/collins.mp4"
    extract_video(clip, tmp_path / "faces", pipeline.FaceOptions(frames=5))
    run_script("deepfakes_images.py", clip, "--frames", "5", "--json", tmp_path / "video.json")
    run_script("deepfakes_images.py", tmp_path / "faces", "--json", tmp_path / "faces.json")
    video, *faces = json.loads((tmp_path / "video.json").read_text())["items"]
    crops = json.loads((tmp_path / "faces.json").read_text())["items"]
    assert [face["score"] for face in faces] == pytest.approx([crop["score"] for crop in crops], abs=2e-6)
    assert video["score"] == pytest.approx(np.mean([face["score"] for face in faces]), abs=2e-6)


def test_crops_that_lost_their_note_are_told(films, tmp_path):
    extract_video(films / "real/collins.mp4", tmp_path / "faces", pipeline.FaceOptions(frames=3))
    first, *_ = sorted((tmp_path / "faces").glob("collins-*.png"))
    noted = run_script("deepfakes_images.py", tmp_path / "faces")
    assert noted.stderr == ""
    Image.open(first).save(first)  # Pillow drops comments
    done = run_script("deepfakes_images.py", tmp_path / "faces")
    assert done.stderr.startswith(
        "hint, for 1 of 3 images: they are named as extract_faces.py names faces, but lack"
    )
    assert done.stdout != noted.stdout
    run_script("deepfakes_images.py", tmp_path / "faces", "--csv", tmp_path / "s.csv")
    warned = [row["warning"] for row in read_rows(tmp_path / "s.csv").values()]
    assert [warning[:12] for warning in warned] == ["does not say", "", ""]
    shutil.copy(first, tmp_path / "photo.png")  # of unknown origin: nothing is missing, but is it a crop?
    done = run_script("deepfakes_images.py", tmp_path / "photo.png")
    assert done.stderr.startswith("hint, for 1 of 1 image: they lack the comment")


def test_the_worst_person_decides(films, tmp_path):
    run_script("deepfakes_images.py", films / "pair.mp4", "--everyone", "--json", tmp_path / "o.json")
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


def test_photographs_are_aligned_first(portrait, tmp_path, tmp_path_factory):
    copies = tmp_path_factory.mktemp("copies")
    other = open_portrait("obama")
    left = film(portrait, pipeline.Pose(160, 240, 140, 20))[:, :320]
    right = film(other, pipeline.Pose(480, 240, 150, -30))[:, 320:]
    pair = np.concatenate((left, right), axis=1)
    Image.fromarray(pair).save(tmp_path / "pair.png")
    Image.fromarray(portrait).save(tmp_path / "one.jpg", quality=95)
    Image.fromarray(np.full((200, 300, 3), 99, np.uint8)).save(tmp_path / "wall.png")
    done = run_script("deepfakes_images.py", tmp_path, "--align", "--json", tmp_path / "o.json",
                      "--annotate", copies, status=1)  # fmt: skip
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
    copy = pipeline.read_image(copies / "pair.png")
    assert copy.shape == pair.shape
    left = faces["pair.png"][0]
    assert (
        np.abs(copy[left["top"], left["left"] + 5].astype(int) - pair[left["top"], left["left"] + 5]).max()
        > 20
    )


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


@pytest.mark.parametrize("suffix", ["webp", "png"])
def test_an_animated_image_is_annotated(tmp_path, suffix):
    frames = [Image.fromarray(np.full((64, 64, 3), 80 * i, np.uint8)) for i in range(3)]
    frames[0].save(tmp_path / f"x.{suffix}", save_all=True, append_images=frames[1:], duration=200)
    done = run_script("deepfakes_images.py", f"x.{suffix}", "--annotate", "out", cwd=tmp_path, status=1)
    assert "no annotated copy" not in done.stderr  # but no face either
    assert len(list(pipeline.read_frames(tmp_path / "out/x.mp4", every=1))) == 3


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
    boxes = [interpolate_faces(faces, list(faces), i) for i in range(60)]
    expected = [*range(10), *[10] * 10, *[None] * 20, *[40] * 10, *[None] * 10]
    assert [b[0].box[0] if b else None for b in boxes] == expected


def test_a_copy_that_fails_costs_no_score(films, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("full")

    monkeypatch.setattr(media, "annotate", fail)
    (((item, _),), _) = pipeline.find_media([films / "pair.mp4"])
    found = score_file(item, tmp_path / "x.mp4", WEIGHTS, pipeline.FaceOptions(frames=3))
    assert found.verdict in ("real", "deepfake")
    assert found.score is not None
    assert found.error == f"no annotated copy: {tmp_path}/x.mp4: full"
    assert os.listdir(tmp_path) == []


def test_a_video_too_small_to_annotate_costs_itself_alone(tmp_path):
    for name, height in (("a.mkv", 1), ("b.mkv", 64)):
        frames = [np.zeros((height, 64, 3), np.uint8)] * 2
        clips.write_clip(tmp_path / name, frames, "ffv1", pixels="bgr0")
    command = ("a.mkv", "b.mkv", "--annotate", "o", "--csv", "s.csv", "--min-size", "80")
    done = run_script("deepfakes_images.py", *command, cwd=tmp_path, status=1)
    assert "a.mkv: no annotated copy: frames must be at least 2x2 pixels" in done.stderr
    assert len(read_rows(tmp_path / "s.csv")) == 2
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["b.mp4"]


def test_of_several_weights_the_lowest_score_counts(films, tmp_path):
    command = ["deepfakes_images.py", films / "df/forged.mp4", ROOT / "test_images/df/biden.png"]
    names = ("Meso4_DF", "Meso4_F2F")
    alone = {name: read_scores(tmp_path, *command, "--weights", name) for name in names}
    both = read_scores(tmp_path, *command, "--weights", names[0], "--weights", names[1])
    for path, row in both.items():
        parts = {name: float(row[f"score {name}"]) for name in names}
        assert float(row["score"]) == min(parts.values())
        assert row["decided_by"] == min(parts, key=parts.get)
        for name in names:
            single, threshold = float(alone[name][path]["score"]), find_weights(name).rule.threshold
            assert (parts[name] < 0.5) == (single < threshold)
    again = run_script(*command, "--weights", names[0], "--weights", names[1], "--json", tmp_path / "s.json",
                       "--resume")  # fmt: skip
    assert re.search(r"verdict +Meso4_DF  Meso4_F2F  video\n", again.stdout)


def read_scores(folder, *command):
    run_script(*command, "--csv", folder / "s.csv", "--json", folder / "s.json")
    return read_rows(folder / "s.csv")
