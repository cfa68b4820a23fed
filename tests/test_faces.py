"""Faces in frames and videos: landmarks to pose, pose to crop, video to a folder of crops."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from clips import film, locate, open_portrait, write_clip
from conftest import ROOT, run_script
from PIL import Image, ImageFilter
from training.lock import hold_lock

import pipeline
from training.extraction import check_replaceable, choose_shown, extract_video
from weights import scores
from weights.scoring.annotate import find_faces_in_photo


@pytest.fixture(scope="module")
def clip(portrait, tmp_path_factory):
    """A clip of 20 frames: a head that wanders; frames 5 and 6 are blurred, in frame 9 there is none."""
    frames = [film(portrait, pipeline.Pose(250 + 6 * i, 240, 130 + i, 2 * i)) for i in range(20)]
    for i in (5, 6):
        frames[i] = np.asarray(Image.fromarray(frames[i]).filter(ImageFilter.GaussianBlur(4)))
    frames[9] = np.full_like(frames[9], 128)
    return write_clip(tmp_path_factory.mktemp("clip") / "head.mp4", frames)


@pytest.fixture(scope="module")
def pair(portrait, tmp_path_factory):
    """A clip of 6 frames with two people side by side, the left one larger."""
    other = open_portrait("collins")
    frames = []
    for i in range(6):
        left = film(portrait, pipeline.Pose(160 + 3 * i, 240, 150, 0))
        right = film(other, pipeline.Pose(480 - 3 * i, 240, 110, 0))
        frames.append(np.concatenate((left[:, :320], right[:, 320:]), axis=1))
    return write_clip(tmp_path_factory.mktemp("pair") / "pair.mp4", frames)


def read_rows(folder):
    with open(folder / "faces.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# --- poses and crops


def test_pose_is_the_published_one(shared):
    cases = json.loads((shared / "golden/geometry.json").read_text())["cases"]
    assert len(cases) == 54
    for case in cases:
        pose, published = pipeline.measure_pose(case["landmarks"]), case["published"]
        assert np.floor(pose.x) == published["center_x"]
        assert np.floor(pose.y) == published["center_y"]
        assert np.floor(pose.size) == published["length"]
        assert pose.angle == pytest.approx(published["rotation_degrees"], abs=1e-3)


LANDMARKS = {  # a face 100 pixels wide, eyes level, about the origin
    "left_eye": [(-30, -20), (-20, -20)],
    "right_eye": [(20, -20), (30, -20)],
    "nose_bridge": [(0, -15), (0, -5)],
    "nose_tip": [(-5, 10), (5, 10)],
    "top_lip": [(-15, 35), (15, 35)],
    "bottom_lip": [(-15, 45), (15, 45)],
}


@pytest.mark.parametrize("roll", range(-175, 181, 5))
def test_crop_is_upright_at_every_angle(roll):
    """Eyes white, mouth grey on a black frame, turned by `roll`: in the crop the eyes are level, on top."""
    turn = np.radians(roll)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    centre = np.array([150.0, 140.0])
    landmarks = {name: np.array(points) @ rotation.T + centre for name, points in LANDMARKS.items()}
    y, x = np.mgrid[:300, :300]
    frame = np.zeros((300, 300, 3), np.uint8)
    for name, channel in (("left_eye", 0), ("right_eye", 1), ("top_lip", 2)):
        px, py = np.mean(landmarks[name], axis=0)
        frame[(x - px) ** 2 + (y - py) ** 2 < 16, channel] = 255
    pose = pipeline.measure_pose(landmarks)
    assert pose.size == pytest.approx(2.2 * 60)
    assert (pose.angle + roll + 1e-6) % 360 == pytest.approx(0, abs=1e-3)
    crop = pipeline.align_face(frame, pose)
    assert crop.shape == (172, 172, 3)
    rows, columns = [], []
    for channel in range(3):
        weight = crop[..., channel].astype(float)
        rows.append((weight.sum(1) * np.arange(172)).sum() / weight.sum() - 85.5)
        columns.append((weight.sum(0) * np.arange(172)).sum() / weight.sum() - 85.5)
    np.testing.assert_allclose(rows, [-20, -20, 35], atol=0.5)
    np.testing.assert_allclose(columns, [-25, 25, 0], atol=0.5)


def test_upright_crop_copies_pixels(noise):
    frame = noise[0]
    crop = pipeline.align_face(frame, pipeline.Pose(99.5, 119.5, 100 / 1.3, 0))
    np.testing.assert_array_equal(crop, frame[70:170, 50:150])


def test_crop_mirrors_beyond_the_frame(noise):
    frame = noise[0]
    crop = pipeline.align_face(frame, pipeline.Pose(-0.5, 119.5, 100 / 1.3, 0))
    np.testing.assert_array_equal(crop[:, 50:], frame[70:170, :50])
    np.testing.assert_array_equal(crop[:, :50], frame[70:170, 50:0:-1])
    corner = pipeline.align_face(frame, pipeline.Pose(255.5, 255.5, 100 / 1.3, 0))
    np.testing.assert_array_equal(corner[50:, 50:], frame[254:204:-1, 254:204:-1])


def test_portraits_are_aligned_crops():
    """The shipped faces: the pose found in a crop is the crop's own, size and angle included."""
    for path in sorted((ROOT / "test_images").glob("*/*.png")):
        face = pipeline.read_image(path)
        pose = locate(face)
        side = face.shape[0]
        assert abs(pose.angle) < 4, path
        assert pose.x == pytest.approx(side / 2, abs=0.05 * side)
        assert pose.y == pytest.approx(side / 2, abs=0.05 * side)
        assert pose.size * 1.3 == pytest.approx(side, rel=0.1)


def check_pose(found, true):
    assert np.hypot(found.x - true.x, found.y - true.y) < 0.03 * true.size, (found, true)
    assert found.size == pytest.approx(true.size, rel=0.05), (found, true)
    assert found.angle == pytest.approx(true.angle, abs=3), (found, true)


def test_a_moving_head_is_measured_exactly(portrait):
    """Turned, scaled and shifted by known amounts: over -60 to 60 degrees, in every frame."""
    swing = [*range(0, 61, 4), *range(56, -61, -4), *range(-56, 1, 4)]
    poses = [
        pipeline.Pose(320 + 1.5 * a, 240 - a / 2, 140 * 1.4 ** np.sin(i / 9), float(a))
        for i, a in enumerate(swing)
    ]
    frames = [pipeline.Frame(i, i / 25, film(portrait, pose)) for i, pose in enumerate(poses)]
    for (_, faces), true in zip(pipeline.locate_faces(frames, pipeline.FaceOptions()), poses, strict=True):
        check_pose(faces[0].pose, true)


@pytest.mark.parametrize("angle", range(-60, 61, 10))
def test_a_tilted_head_is_measured_or_not_found(portrait, angle):
    true = pipeline.Pose(300, 240, 140, float(angle))
    frame = pipeline.Frame(0, 0.0, film(portrait, true))
    ((_, faces),) = pipeline.locate_faces([frame], pipeline.FaceOptions())
    assert faces or abs(angle) > 40
    for face in faces:
        check_pose(face.pose, true)


def test_a_small_face_is_followed(portrait):
    """Down to 24 pixels: the detector alone sees no face much below 40 in its default search."""
    poses = [pipeline.Pose(320 + 2 * i, 240, size, 0) for i, size in enumerate(range(60, 23, -4))]
    frames = [pipeline.Frame(i, i / 25, film(portrait, pose)) for i, pose in enumerate(poses)]
    assert not pipeline.detect_faces(frames[-1].image, upsample=1)
    for (_, faces), true in zip(pipeline.locate_faces(frames, pipeline.FaceOptions()), poses, strict=True):
        assert np.hypot(faces[0].pose.x - true.x, faces[0].pose.y - true.y) < 0.06 * true.size
        assert faces[0].pose.size == pytest.approx(true.size, rel=0.1)


# --- extraction


def test_extraction_of_a_clip(clip, tmp_path):
    done = run_script("extract_faces.py", clip, "--output", tmp_path / "faces")
    assert done.stdout == f"{clip}: 19 faces in 20 frames, 1 without a face, 2 doubtful\n"
    assert done.stderr == ""
    rows = read_rows(tmp_path / "faces")
    assert [int(row["frame"]) for row in rows] == [i for i in range(20) if i != 9]
    assert {int(row["frame"]): row["doubt"] for row in rows if row["doubt"]} == {5: "blurred", 6: "blurred"}
    for row in rows:
        i, pose = (
            int(row["frame"]),
            pipeline.Pose(*(float(row[name]) for name in ("x", "y", "size", "angle"))),
        )
        if not row["doubt"]:
            check_pose(pose, pipeline.Pose(250 + 6 * i, 240, 130 + i, 2 * i))
        assert float(row["time"]) == pytest.approx(i / 25, abs=1e-3)
        assert row["person"] == "1"
        box = [int(row[name]) for name in ("left", "top", "right", "bottom")]
        assert box[0] < pose.x < box[2]
        assert box[1] < pose.y < box[3]
        crop = pipeline.read_image(tmp_path / "faces" / row["file"])
        assert row["file"] == f"head-{i:06}.png"
        assert crop.shape[0] == crop.shape[1] == pytest.approx(1.3 * float(row["size"]), abs=0.52)
        assert pipeline.measure_sharpness(crop) == pytest.approx(float(row["sharpness"]), abs=0.1)
    names = {"contact_sheet.png", "extraction.json", "faces.csv"} | {row["file"] for row in rows}
    assert {path.name for path in (tmp_path / "faces").iterdir()} == names
    assert os.listdir(tmp_path) == ["faces"]
    sheet = pipeline.read_image(tmp_path / "faces/contact_sheet.png")
    red = (sheet == (255, 0, 0)).all(axis=2)
    cells = red.reshape(2, sheet.shape[0] // 2, 10, sheet.shape[1] // 10)[:, 0, :, 0]
    assert np.flatnonzero(cells).tolist() == [5, 6]
    # what lies beside the faces is no face
    found = pipeline.find_images([tmp_path / "faces"])
    assert sorted(image.path.name for image in found) == [row["file"] for row in rows]


def test_a_finished_video_is_recognised(clip, tmp_path):
    search = pipeline.FaceOptions(frames=3)
    first = extract_video(clip, tmp_path / "out", search)
    assert (first.frames, first.faces, first.before, first.error) == (3, 3, False, "")
    (tmp_path / "out/head-000000.png").unlink()  # cleaned by hand
    again = extract_video(clip, tmp_path / "out", search)
    assert again == first._replace(before=True, faces=2)
    assert not (tmp_path / "out/head-000000.png").exists()
    other = extract_video(clip, tmp_path / "out", search._replace(frames=2))
    assert re.fullmatch(
        r"/.*/out holds faces of another video or by other settings \(frames\): use --force to replace it, "
        "or another --output",
        other.error,
    )
    forced = extract_video(clip, tmp_path / "out", search._replace(frames=2), force=True)
    assert (forced.faces, forced.error) == (2, "")
    assert len(list((tmp_path / "out").glob("head-*.png"))) == 2
    assert os.listdir(tmp_path) == ["out"]


def test_other_files_are_not_touched(clip, tmp_path):
    (tmp_path / "holiday.png").write_bytes(b"mine")
    done = run_script("extract_faces.py", clip, "--output", tmp_path, status=1)
    assert "holds something else" in done.stderr
    assert os.listdir(tmp_path) == ["holiday.png"]
    done = run_script("extract_faces.py", clip, "--output", ".", cwd=tmp_path, status=1)
    assert "holds something else" in done.stderr


def test_force_replaces_an_extraction_and_nothing_else(tmp_path):
    (tmp_path / "person2").mkdir()
    for name in ("extraction.json", "faces.csv", "contact_sheet.png", "clip-000012.png"):
        (tmp_path / name).touch()
    check_replaceable(tmp_path)
    for name in ("notes.xlsx", "holiday.png", "clip.mp4"):
        (tmp_path / name).touch()
        with pytest.raises(FileExistsError, match=f"holds {name}"):
            check_replaceable(tmp_path)
        (tmp_path / name).unlink()
    (tmp_path / "person2/extraction.json").touch()  # of a video called person2
    with pytest.raises(FileExistsError, match=r"holds person2/extraction\.json, which"):
        check_replaceable(tmp_path)
    (tmp_path / "person2/extraction.json").unlink()
    (tmp_path / "person2/thesis.docx").touch()
    with pytest.raises(FileExistsError, match=r"holds person2/thesis\.docx, which does not belong there"):
        check_replaceable(tmp_path)
    (tmp_path / "extraction.json").unlink()
    with pytest.raises(FileExistsError, match=r"holds no extraction\.json, so it is not ours"):
        check_replaceable(tmp_path)


def test_a_contact_sheet_shows_so_many_faces():
    assert choose_shown([""] * 3) == [0, 1, 2]
    doubts = ["", "blurred", *[""] * 5000]
    shown = choose_shown(doubts)
    assert len(shown) == 1000
    assert {0, 1, 5001} <= set(shown)
    assert max(np.diff(shown)) <= 6
    assert len(choose_shown(["small"] * 3000)) == 1000


def test_two_runs_do_not_write_to_one_folder(clip, tmp_path):
    with hold_lock(tmp_path / ".writing-x.lock"):
        found = extract_video(clip, tmp_path / "x", pipeline.FaceOptions(frames=1))
        assert "another run is writing there" in found.error
    assert extract_video(clip, tmp_path / "x", pipeline.FaceOptions(frames=1)).faces == 1  # let go
    assert {path.name for path in tmp_path.iterdir()} == {"x"}
    left = {path.name for path in (tmp_path / "x").iterdir()}
    assert left == {"contact_sheet.png", "extraction.json", "faces.csv", f"{clip.stem}-000000.png"}


def test_videos_are_never_mixed(tmp_path):
    names = ["a.mp4", "a.avi", "b.MOV", "sub/a.mp4", "c.mkv", "c/d.webm", ".hidden.mp4", "notes.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = {str(path.relative_to(tmp_path)): name for path, name in pipeline.find_videos([tmp_path])[0]}
    assert found == {
        "a.avi": "a.avi",
        "a.mp4": "a.mp4",
        "b.MOV": "b",
        "c.mkv": "c.mkv",
        "c/d.webm": "c/d",
        "sub/a.mp4": "sub/a",
    }
    files = [tmp_path / "a.mp4", tmp_path / "sub/a.mp4", tmp_path / "a.mp4", tmp_path / "gone.mp4"]
    assert [name for _, name in pipeline.find_videos(files)[0]] == ["a.mp4", "a.mp4-2", "gone"]
    # Windows and macOS do not distinguish cases; Windows reserves names and drops dots and spaces at an end
    files = [tmp_path / name for name in ("x/A.mp4", "y/a.mp4", "b .mp4", "c..mp4", "z/c.mp4")]
    assert [n for _, n in pipeline.find_videos(files)[0]] == ["A.mp4", "a.mp4-2", "b", "c..mp4", "c.mp4"]
    files = [tmp_path / name for name in ("con.mp4", "LPT1.x.mp4", 'a:b?".mp4', "con/x.mp4")]
    assert [n for _, n in pipeline.find_videos(files)[0]] == ["con_", "LPT1.x_", "a_b__", "x"]


def test_several_videos_in_processes(clip, pair, tmp_path):
    (tmp_path / "in/df").mkdir(parents=True)
    shutil.copy(clip, tmp_path / "in/df/one.mp4")
    shutil.copy(pair, tmp_path / "in/df/two.mp4")
    command = [tmp_path / "in", "--output", tmp_path / "out", "--frames", "3", "--jpeg", "90", "--jobs", "2"]
    done = run_script("extract_faces.py", *command)
    lines = [
        f"{tmp_path}/in/df/one.mp4: 3 faces in 3 frames, 0 without a face\n",
        f"{tmp_path}/in/df/two.mp4: 3 faces in 3 frames, 0 without a face\n",
    ]
    assert done.stdout == "".join(lines)
    assert sorted(p.name for p in (tmp_path / "out/df/one").glob("*.jpg")) == [
        f"one-{i:06}.jpg" for i in (0, 10, 19)
    ]
    with Image.open(tmp_path / "out/df/one/one-000000.jpg") as image:
        assert image.format == "JPEG"
    again = run_script("extract_faces.py", *command)
    assert again.stdout == "".join(line.replace("\n", " (done before)\n") for line in lines)
    # as they are, the crops are training data: labelled by folder, a video each
    images = pipeline.find_images([tmp_path / "out"])
    assert {(i.label, i.video) for i in images} == {
        ("df", str(tmp_path / "out/df/one")), ("df", str(tmp_path / "out/df/two")),
    }  # fmt: skip


def test_everyone_gets_a_folder(pair, tmp_path):
    found = extract_video(pair, tmp_path / "out", pipeline.FaceOptions(everyone=True))
    assert (found.frames, found.faces, found.people, found.empty) == (6, 12, 2, 0)
    rows = read_rows(tmp_path / "out")
    for row in rows:
        assert row["person"] == ("1" if float(row["x"]) < 320 else "2")
        assert row["file"] == f"person{row['person']}/pair-{int(row['frame']):06}.png"
        assert (tmp_path / "out" / row["file"]).is_file()
    largest = extract_video(pair, tmp_path / "largest", pipeline.FaceOptions())
    assert (largest.faces, largest.people) == (6, 1)
    assert all(float(row["x"]) < 320 for row in read_rows(tmp_path / "largest"))
    # persons of one video are one video, where it is asked which images belong together
    assert len({image.video for image in pipeline.find_images([tmp_path / "out"])}) == 1


def test_another_person_is_doubted(portrait, tmp_path):
    other = open_portrait("obama")
    pose = pipeline.Pose(320, 240, 150, 0)
    frames = [film(other if i == 4 else portrait, pose) for i in range(7)]
    clip = write_clip(tmp_path / "cut.mp4", frames)
    found = extract_video(clip, tmp_path / "out", pipeline.FaceOptions(), drop_doubtful=True)
    assert (found.faces, found.people, found.doubtful) == (7, 2, 1)
    (row,) = [row for row in read_rows(tmp_path / "out") if row["doubt"]]
    assert (row["frame"], row["doubt"], row["file"]) == ("4", "identity", "doubtful/cut-000004.png")
    assert (tmp_path / "out" / row["file"]).is_file()
    assert len(pipeline.find_images([tmp_path / "out"])) == 6
    assert len(pipeline.find_images([tmp_path / "out/doubtful"])) == 1


def test_small_and_blurred_faces_are_passed_over(clip, tmp_path):
    found = extract_video(clip, tmp_path / "size", pipeline.FaceOptions(min_size=140))
    assert found.empty == 1
    assert found.faces + found.refused == 19
    assert all(float(row["size"]) >= 140 for row in read_rows(tmp_path / "size"))
    assert 6 <= found.faces <= 12
    found = extract_video(clip, tmp_path / "sharp", pipeline.FaceOptions(min_sharpness=100))
    assert (found.faces, found.refused) == (17, 2)


def test_a_killed_run_goes_on(clip, tmp_path):
    for i in range(3):
        shutil.copy(clip, tmp_path / f"{i}.mp4")
    command = [
        ROOT / "extract_faces.py",
        *(tmp_path / f"{i}.mp4" for i in range(3)),
        "--output",
        tmp_path / "o",
    ]
    command = [sys.executable, *map(os.fspath, command)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "o").glob(".writing-1/*.png")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / "o/0/extraction.json").is_file()
    assert not (tmp_path / "o/1").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, *others = done.stdout.splitlines()
    assert first.endswith("2 doubtful (done before)")
    assert all(line.endswith("2 doubtful") for line in others)
    assert sorted(os.listdir(tmp_path / "o")) == ["0", "1", "2"]


def test_a_cluster_that_loses_a_worker(clip, tmp_path):
    pytest.importorskip("distributed", reason="needs distributed: pip install -r tests/requirements.txt")
    for i in range(8):
        shutil.copy(clip, tmp_path / f"{i}.mp4")
    scheduler = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard", "--host",
         "127.0.0.1", "--scheduler-file", tmp_path / "scheduler.json"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    processes = [scheduler]
    try:
        wait_for(tmp_path / "scheduler.json", "\n}")
        address = json.loads((tmp_path / "scheduler.json").read_text())["address"]
        for _ in range(2):
            worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1",
                      "--no-nanny", "--no-dashboard", "--local-directory", tmp_path / "dask"]  # fmt: skip
            processes.append(subprocess.Popen(worker, stderr=subprocess.DEVNULL, cwd=tmp_path))
        command = [sys.executable, ROOT / "extract_faces.py", *(tmp_path / f"{i}.mp4" for i in range(8)),
                   "--output", tmp_path / "o", "--dask", address]  # fmt: skip
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for(tmp_path / "o/1/extraction.json")
        processes[1].kill()
        out, error = run.communicate(timeout=300)
        assert run.returncode == 0, error
        lines = out.splitlines()
        assert [re.match(r".*/(\d)\.mp4: 19 faces in 20 frames", line)[1] for line in lines] == list(
            "01234567"
        )
        assert sorted(os.listdir(tmp_path / "o")) == list("01234567")
    finally:
        for process in processes:
            process.kill()
            process.wait()


def wait_for(path, end="", seconds=120):
    """Wait until a file is there, up to its end."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not (path.exists() and path.read_text().endswith(end)):
        time.sleep(0.05)
    assert path.exists()


def test_a_broken_face_recognition_is_explained(clip, tmp_path):
    """Without its models' pkg_resources it calls quit(), after telling to install what is there."""
    (tmp_path / "face_recognition_models.py").write_text("import no_such_package")
    done = subprocess.run(
        [sys.executable, ROOT / "extract_faces.py", clip, "--output", tmp_path / "o"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "face_recognition cannot import its models" in done.stderr
    assert "no_such_package" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*o*/*"))


def test_shared_clips(shared, tmp_path):
    clips = {"no_face_screencast": 0, "carphone_qcif": 3, "stage_dark_audience": 1}
    for name, least in clips.items():
        path = shared / f"videos/clips/{name}.mp4"
        found = extract_video(path, tmp_path / name, pipeline.FaceOptions(frames=3))
        assert found.error == ""
        assert found.frames == 3 == found.faces + found.empty
        assert found.faces >= least
    assert sorted(os.listdir(tmp_path / "no_face_screencast")) == ["extraction.json", "faces.csv"]


# --- other people's files -------------------------------------------------------------------------


def test_the_largest_face_is_taken_even_when_it_comes_later(shared):
    """A small untouched portrait is there from the start; the large forged face from the fourth frame on."""
    clip = shared / "inputs/forged_large_from_frame3.mp4"
    frames = pipeline.read_frames(clip, 30)
    sizes = [faces[0].pose.size for _, faces in pipeline.locate_faces(frames, pipeline.FaceOptions())]
    assert len(sizes) == 30
    assert sum(size > 200 for size in sizes) >= 26
    done = run_script("deepfakes_images.py", clip)
    assert re.search(r"^0\.[0-3]\d+ +30 .* deepfake +", done.stdout, re.MULTILINE)


def test_a_scene_cut_starts_anew(portrait):
    small = film(open_portrait("collins"), pipeline.Pose(120, 240, 70, 0))
    both = small.copy()
    both[:, 260:] = film(portrait, pipeline.Pose(440, 240, 180, 0))[:, 260:]
    other = np.ascontiguousarray(255 - np.zeros_like(both))
    other[:, 260:] = both[:, 260:]
    frames = [
        pipeline.Frame(i, i / 25, image) for i, image in enumerate([small] * 3 + [both] * 6 + [other] * 2)
    ]
    sizes = [faces[0].pose.size for _, faces in pipeline.locate_faces(frames, pipeline.FaceOptions())]
    assert sizes[:3] == pytest.approx([70] * 3, rel=0.1)
    assert sizes[-3:] == pytest.approx([180] * 3, rel=0.1)


def test_frames_without_a_face_cost_few_slow_searches(monkeypatch):
    """Of 40 different frames, and of 40 alike."""
    random, doubled = np.random.default_rng(0), []
    detect = pipeline.detect_faces

    def count(image, detector="hog", reduction=1, upsample=0):
        doubled.append(upsample)
        return detect(image, detector, reduction, upsample)

    monkeypatch.setattr(pipeline, "detect_faces", count)
    noise = [random.integers(0, 256, (120, 160, 3), dtype=np.uint8) for _ in range(40)]
    for images, most in ((noise, 7), (noise[:1] * 40, 1)):
        doubled.clear()
        frames = [pipeline.Frame(i, i / 25, image) for i, image in enumerate(images)]
        found = list(pipeline.locate_faces(frames, pipeline.FaceOptions()))
        assert [frame.index for frame, _ in found] == list(range(40))
        assert not any(faces for _, faces in found)
        assert sum(doubled) <= most


def test_a_face_that_only_the_slow_search_sees_is_found_in_every_frame(portrait):
    frames = [
        pipeline.Frame(i, i / 25, film(portrait, pipeline.Pose(320 + i, 240, 40, 0))) for i in range(12)
    ]
    assert not pipeline.detect_faces(frames[0].image)
    found = list(pipeline.locate_faces(frames, pipeline.FaceOptions()))
    assert [frame.index for frame, _ in found] == list(range(12))
    assert all(faces for _, faces in found)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_photographs_are_tried_turned(portrait, tmp_path, quarters):
    Image.fromarray(np.rot90(portrait, quarters)).save(tmp_path / "turned.png")
    options = pipeline.FaceOptions()
    ((_, (upright,), _),) = find_faces_in_photo(ROOT / "test_images/real/obama.png", options)
    assert abs(upright.pose.angle) < 5
    ((frame, (face,), _),) = find_faces_in_photo(tmp_path / "turned.png", options)
    angle = {1: 90, 2: 180, 3: -90}[quarters]
    assert abs((face.pose.angle - angle + 180) % 360 - 180) < 8
    again = pipeline.align_face(frame.image, face.pose)
    assert pipeline.correlate_crops(again, face.crop) > 0.95
    left, top, right, bottom = face.box
    assert left < face.pose.x < right
    assert top < face.pose.y < bottom


def test_a_large_photograph_is_reduced(portrait, tmp_path, monkeypatch):
    Image.fromarray(portrait).resize((1000, 1200)).save(tmp_path / "x.png")
    monkeypatch.setattr(scores, "LARGEST_PHOTO", 350_000)
    assert scores.read_photo(tmp_path / "x.png").shape == (600, 500, 3)
    monkeypatch.setattr(scores, "LARGEST_PHOTO", 1_200_000)
    assert scores.read_photo(tmp_path / "x.png").shape == (1200, 1000, 3)


def test_a_small_face_in_a_large_group_photograph_is_found(portrait):
    """Of 40 pixels in 48 megapixels, searched in parts; a portrait's background is not searched."""
    picture = np.full((6000, 8000, 3), 128, np.uint8)
    picture[3000:3480, 5000:5640] = film(portrait, pipeline.Pose(320, 240, 56, 0))
    everyone = pipeline.FaceOptions(everyone=True)
    ((box, pose),) = pipeline.locate_anywhere(picture, everyone)
    assert (pose.x, pose.y) == pytest.approx((5320, 3240), abs=4)
    assert box[2] - box[0] < 80


def test_videos_of_one_name_are_told_apart(clip, pair, tmp_path):
    for folder, source in (("a", clip), ("b", pair)):
        (tmp_path / folder).mkdir()
        shutil.copy(source, tmp_path / folder / "v.mp4")
    options = pipeline.FaceOptions(frames=2)
    extract_video(tmp_path / "a/v.mp4", tmp_path / "out", options)
    found = extract_video(tmp_path / "b/v.mp4", tmp_path / "out", options)
    assert "faces of another video or by other settings (digest)" in found.error


def test_only_the_person_of_a_picture_is_kept(pair, tmp_path):
    """Two people stand side by side, the other one larger: the smaller is asked for."""
    Image.fromarray(open_portrait("collins")).save(tmp_path / "who.png")
    run_script("extract_faces.py", pair, "--output", tmp_path / "out", "--only", tmp_path / "who.png")
    rows = read_rows(tmp_path / "out")
    assert len(rows) == 6
    wanted = pipeline.encode_person(tmp_path / "who.png")
    for row in rows:
        crop = pipeline.read_image(tmp_path / "out" / row["file"])
        assert np.linalg.norm(pipeline.encode_face(crop) - wanted) < 0.6
        assert float(row["x"]) > 320
    several = ROOT / "tests/figures/timeline.png"
    for picture, reason in ((several, "must show one face, not"), ("gone.png", "No such file")):
        done = run_script("extract_faces.py", pair, "--only", picture, status=2)
        assert reason in done.stderr
        assert done.stderr.count("\n") == 2  # usage, and the reason


def test_several_videos_do_not_mix_with_the_faces_of_one(clip, tmp_path):
    run_script("extract_faces.py", clip, "--output", tmp_path / "out", "--frames", "1")
    shutil.copy(clip, tmp_path / "other.mp4")
    done = run_script(
        "extract_faces.py", clip, tmp_path / "other.mp4", "--output", tmp_path / "out", status=2
    )
    assert "out holds the faces of a video: name another folder for several" in done.stderr
