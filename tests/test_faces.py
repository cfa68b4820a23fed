"""Faces in frames and photographs: landmarks to pose, pose to crop, faces followed and recognised."""

import json

import numpy as np
import pytest
from clips import film, open_portrait

import pipeline


def make_frames(images):
    return [pipeline.Frame(i, i / 25, image) for i, image in enumerate(images)]


def locate_all(images, **options):
    """Return the Faces of each image, as frames of a video."""
    frames = make_frames(images)
    found = list(pipeline.locate_faces(frames, pipeline.FaceOptions(**options)))
    assert [frame.index for frame, _ in found] == list(range(len(frames)))
    return [faces for _, faces in found]


def test_pose_is_the_published_one(shared):
    cases = json.loads((shared / "golden/geometry.json").read_text())["cases"]
    assert len(cases) == 54
    for case in cases:
        pose, published = pipeline.measure_pose(case["landmarks"]), case["published"]
        wanted = [published[name] for name in ("center_x", "center_y", "length")]
        assert np.floor(pose[:3]).tolist() == wanted
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


def test_upright_crops_copy_pixels_and_mirror_those_beyond_the_frame(noise):
    frame = noise[0]
    crop = pipeline.align_face(frame, pipeline.Pose(99.5, 119.5, 100 / 1.3, 0))
    np.testing.assert_array_equal(crop, frame[70:170, 50:150])
    crop = pipeline.align_face(frame, pipeline.Pose(-0.5, 119.5, 100 / 1.3, 0))
    np.testing.assert_array_equal(crop[:, 50:], frame[70:170, :50])
    np.testing.assert_array_equal(crop[:, :50], frame[70:170, 50:0:-1])
    corner = pipeline.align_face(frame, pipeline.Pose(255.5, 255.5, 100 / 1.3, 0))
    np.testing.assert_array_equal(corner[50:, 50:], frame[254:204:-1, 254:204:-1])


def check_pose(found, true):
    assert np.hypot(found.x - true.x, found.y - true.y) < 0.03 * true.size, (found, true)
    assert found.size == pytest.approx(true.size, rel=0.05), (found, true)
    assert found.angle == pytest.approx(true.angle, abs=3), (found, true)


def test_a_moving_head_is_measured_exactly(portrait):
    """Turned, scaled and shifted by known amounts: over -60 to 60 degrees, in every frame."""
    swing = [*range(0, 61, 4), *range(56, -61, -4), *range(-56, 1, 4)]
    sizes = 140 * 1.4 ** np.sin(np.arange(len(swing)) / 9)
    poses = [pipeline.Pose(320 + 1.5 * a, 240 - a / 2, size, a) for a, size in zip(swing, sizes, strict=True)]
    for (face,), true in zip(locate_all(film(portrait, pose) for pose in poses), poses, strict=True):
        check_pose(face.pose, true)


def test_a_small_face_is_followed(portrait):
    """Down to 24 pixels: the detector sees none below about 60, in its slow search none much below 40."""
    sizes = [*range(40, 61, 4), *range(60, 23, -4)]
    poses = [pipeline.Pose(320 + 2 * i, 240, size, 0) for i, size in enumerate(sizes)]
    images = [film(portrait, pose) for pose in poses]
    assert not pipeline.detect_faces(images[0])
    assert not pipeline.detect_faces(images[-1], upsample=1)
    for (face,), true in zip(locate_all(images), poses, strict=True):
        assert np.hypot(face.pose.x - true.x, face.pose.y - true.y) < 0.06 * true.size
        assert face.pose.size == pytest.approx(true.size, rel=0.1)


def test_the_largest_face_is_taken_even_when_it_comes_later(shared):
    """A small untouched portrait is there from the start; the large forged face from the fourth frame on."""
    clip = shared / "inputs/forged_large_from_frame3.mp4"
    sizes = [face.pose.size for (face,) in locate_all(frame.image for frame in pipeline.read_frames(clip))]
    assert len(sizes) == 30
    assert sum(size > 200 for size in sizes) >= 26


def test_a_large_photograph_is_searched_reduced_and_cut_whole(portrait, monkeypatch):
    true = pipeline.Pose(640, 480, 300, 5)
    image = film(portrait, true, (1280, 960))
    (whole,) = pipeline.find_faces_in_photo(image)
    check_pose(whole.pose, true)
    monkeypatch.setattr(pipeline, "LARGEST_SEARCHED", 400_000)  # a ninth of its sides squared
    (found,) = pipeline.find_faces_in_photo(image)
    check_pose(found.pose, whole.pose)
    assert found.crop.shape[0] == round(1.3 * found.pose.size)
    assert pipeline.correlate(found.crop, whole.crop) > 0.98
    assert found.sharpness == pytest.approx(whole.sharpness, rel=0.1)


def find_people(images, monkeypatch, **options):
    """Return ([persons of each frame], number of faces encoded)."""
    encoded, encode = [], pipeline.encode_face

    def count(crop):
        encoded.append(len(crop))
        return encode(crop)

    monkeypatch.setattr(pipeline, "encode_face", count)
    found = pipeline.find_faces(make_frames(images), pipeline.FaceOptions(**options))
    return [[face.person for face in faces] for _, faces in found], len(encoded)


def test_after_a_scene_cut_every_face_is_encoded(portrait, monkeypatch):
    """Two people in one place, then the first again before another background."""
    pose = pipeline.Pose(320, 240, 150, 0)
    first, other = film(portrait, pose), film(open_portrait("obama"), pose)
    cut = first.copy()
    cut[:, :200], cut[:, 440:] = 255, 0
    assert pipeline.is_cut(*make_frames([first, cut]))
    assert not pipeline.is_cut(None, make_frames([first])[0])
    images = [first, first, other, other, first, cut, cut]
    assert find_people(images, monkeypatch) == ([[1], [1], [2], [2], [1], [1], [1]], 4)


def test_people_of_the_shared_clips(shared, monkeypatch):
    """As many as are seen, encoded seldom."""
    for name, people, most in (("carphone_qcif", 1, 2), ("crowd_many_faces", 2, 9), ("talking_head", 1, 2)):
        clip = shared / f"videos/clips/{name}.mp4"
        images = [frame.image for frame in pipeline.read_frames(clip, 30)]
        found, encoded = find_people(images, monkeypatch)
        assert all(found)
        assert max(map(max, found)) == people
        assert encoded <= most
