"""Faces in frames: landmarks to pose, pose to crop, video to crops."""

import json
import re

import numpy as np
import pytest
from conftest import ROOT, run_script
from PIL import Image

import pipeline


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


def test_extracted_faces_of_a_clip(shared, tmp_path):
    clip = shared / "videos/clips/carphone_qcif.mp4"
    done = run_script("extract_faces.py", clip, "--output", tmp_path / "faces", "--frames", "5")
    assert re.fullmatch(r".*carphone_qcif\.mp4: 4 faces in 5 frames, 1 without a face\n", done.stdout)
    assert done.stderr == ""
    names = sorted(path.name for path in (tmp_path / "faces").iterdir())
    assert names == [f"carphone_qcif-{index:06}.png" for index in (0, 30, 60, 89)]
    again = run_script("extract_faces.py", clip, "--output", tmp_path / "faces", "--frames", "7", status=2)
    assert "holds faces of a video of this name" in again.stderr
    for name in names:
        width, height = Image.open(tmp_path / "faces" / name).size
        assert width == height > 60


def test_a_video_without_faces_is_said_so(shared, tmp_path):
    clip = shared / "videos/clips/no_face_screencast.mp4"
    done = run_script("extract_faces.py", clip, "--output", tmp_path, "--frames", "2", status=1)
    assert "0 faces in 2 frames, 2 without a face" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_extract_refuses_what_is_no_video(tmp_path):
    (tmp_path / "text.mp4").write_text("text")
    done = run_script("extract_faces.py", tmp_path / "text.mp4", status=1)
    assert re.fullmatch(r"extract_faces\.py: .*text\.mp4: no video that can be read .*\n", done.stderr)
    run_script("extract_faces.py", cwd=tmp_path, status=2)  # there is no video.mp4


def test_portraits_are_aligned_crops():
    """The shipped faces: the pose found in a crop is the crop's own, size and angle included."""
    for path in sorted((ROOT / "test_images").glob("*/*.png")):
        face = pipeline.read_image(path)
        pose = pipeline.measure_pose(pipeline.find_landmarks(face))
        side = face.shape[0]
        assert abs(pose.angle) < 4, path
        assert pose.x == pytest.approx(side / 2, abs=0.05 * side)
        assert pose.y == pytest.approx(side / 2, abs=0.05 * side)
        assert pose.size * 1.3 == pytest.approx(side, rel=0.1)
