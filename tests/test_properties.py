"""What holds for all inputs, not only for those thought of: the geometry, the input contract, the tables."""

from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import pipeline
from classifiers import scale_pixels
from weights import Rule
from weights.scoring.metrics import compute_auc, compute_eer, compute_roc
from weights.scoring.results import read_json, write_tables
from weights.scoring.scores import Result
from weights.scoring.verdicts import classify

settings.register_profile(
    "ours",
    deadline=None,  # the machine may be busy
    derandomize=True,  # the same cases in every run
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("ours")

FEATURES = {"left_eye": 6, "right_eye": 6, "nose_bridge": 4, "nose_tip": 5, "top_lip": 12, "bottom_lip": 12}
coordinates = st.floats(-2000, 4000)
angles = st.floats(-180, 180)
poses = st.builds(pipeline.Pose, coordinates, coordinates, st.floats(1, 900), angles)
scores = st.floats(0, 1)
# every name that a file can have, bytes that are no UTF-8 (as surrogates) included
names = st.text(st.characters(exclude_characters="/\0", max_codepoint=0x2FFF), min_size=1, max_size=30)
names |= st.binary(min_size=1, max_size=30).map(lambda b: b.replace(b"/", b"").replace(b"\0", b"")).filter(
    bool
).map(lambda b: b.decode(errors="surrogateescape"))  # fmt: skip
names = names.filter(lambda name: name not in (".", ".."))


def turn(points, angle, scale, shift):
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return scale * np.asarray(points) @ np.array([[cos, sin], [-sin, cos]]) + shift


# --- geometry -------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), angles, st.floats(0.05, 20), coordinates, coordinates)
def test_the_pose_moves_with_the_landmarks(seed, angle, scale, x, y):
    random = np.random.default_rng(seed)
    landmarks = {name: random.uniform(0, 100, (count, 2)) for name, count in FEATURES.items()}
    before = pipeline.measure_pose(landmarks)
    after = pipeline.measure_pose({n: turn(p, angle, scale, (x, y)) for n, p in landmarks.items()})
    np.testing.assert_allclose(after[:2], turn(before[:2], angle, scale, (x, y)), atol=1e-6 * scale + 1e-8)
    assert after.size == pytest.approx(before.size * scale)
    # clockwise in an image, whose y points down, is what turns the head back
    assert (after.angle - before.angle + angle + 180) % 360 - 180 == pytest.approx(0, abs=1e-4)


@given(poses, st.integers(1, 600), st.floats(0.1, 10))
def test_a_square_is_mapped_without_distortion(pose, side, scale):
    matrix, shift = pipeline.map_square(pose, side, scale)
    np.testing.assert_allclose(matrix @ matrix.T, scale**2 * np.eye(2), atol=1e-9 * scale**2)
    assert np.linalg.det(matrix) > 0  # never mirrored
    centre = matrix @ (side / 2, side / 2) + shift
    np.testing.assert_allclose(centre, (pose.x + 0.5, pose.y + 0.5), atol=1e-6)


@given(st.integers(1, 90), st.integers(1, 90), poses.map(lambda p: p._replace(size=min(p.size, 120))))
@settings(max_examples=60)
def test_any_face_can_be_cut_out_of_any_frame(height, width, pose):
    """Far outside, larger than the frame, in frames of a pixel: a square of the frame's own colours."""
    frame = np.empty((height, width, 3), np.uint8)
    frame[:] = (200, 100, 50)
    crop = pipeline.align_face(frame, pose)
    side = max(1, round(1.3 * pose.size))
    assert crop.shape == (side, side, 3)
    assert crop.dtype == np.uint8
    assert (crop == (200, 100, 50)).all()


# --- input contract -------------------------------------------------------------------------------

dtypes = st.sampled_from(["u1", "i1", "u2", "i4", "i8", "f2", "f4", "f8", "?", "c8"])


@given(dtypes, st.lists(st.integers(0, 4), max_size=5))
def test_only_batches_of_faces_of_known_unit_are_taken(dtype, shape):
    with pytest.raises(ValueError, match="faces must be a batch"):
        scale_pixels(np.zeros(shape, dtype))
    if dtype not in ("u1", "f2", "f4", "f8"):
        with pytest.raises(ValueError, match="must be uint8 in 0-255 or float"):
            scale_pixels(np.zeros((1, 256, 256, 3), dtype))


@given(st.floats(width=32), st.integers(0, 256 * 256 * 3 - 1), st.sampled_from(["f4", "f8"]))
def test_one_value_out_of_range_is_enough_to_refuse(value, where, dtype):
    faces = np.zeros((1, 256, 256, 3), dtype)
    faces.flat[where] = value
    if 0 <= value <= 1:
        np.testing.assert_array_equal(scale_pixels(faces), faces)
    else:  # NaN included
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
            scale_pixels(faces)


@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))),
    st.sampled_from(list(pipeline.RESAMPLING)),
)
def test_resizing_invents_no_value(image, resampling):
    face = pipeline.resize_face(image, resampling)
    assert face.shape == (256, 256, 3)
    assert face.dtype == np.uint8
    if resampling != "bicubic":  # which overshoots, as it should
        assert face.min() >= image.min()
        assert face.max() <= image.max()


# --- names, scores, tables ------------------------------------------------------------------------


@given(st.text(max_size=60))
def test_what_is_shown_is_one_line(text):
    assert len(pipeline.printable(text).splitlines()) <= 1
    assert len(pipeline.describe_error(ValueError(text)).splitlines()) <= 1


@given(st.lists(st.tuples(st.lists(st.sampled_from("ab"), min_size=1, max_size=4).map("/".join),
                          st.sampled_from([".mp4", ".avi", ".png"])), max_size=12, unique=True))  # fmt: skip
def test_no_two_outputs_share_a_name_or_lie_within_another(files):
    outputs = pipeline.name_outputs([PurePosixPath(path + suffix) for path, suffix in files])
    assert len(set(outputs)) == len(files)
    for one in outputs:
        assert not any(other.startswith(one + "/") for other in outputs)


labelled = st.tuples(names, st.none() | scores, st.sampled_from(["df", "real", ""]), st.booleans())


@given(st.lists(labelled, max_size=8, unique_by=lambda row: str(Path(row[0]))))
def test_results_are_given_back_as_they_were_written(tmp_path, rows):
    face, written = pipeline.Face(3, 0.12, (1, 2, 3, 4), pipeline.Pose(1.0, 2.0, 3.0, 4.0), 1, score=0.5), []
    for name, score, label, is_video in rows:
        item = pipeline.Item(Path(name), name, label, kind="video" if is_video else "image")
        if score is None:
            written.append(Result(item, None, "error", "unreadable"))
        else:
            verdict, faces = classify(score, item.kind, Rule()), (face,) * is_video
            written.append(Result(item, round(score, 6), verdict, "", 30 * is_video, faces))
    write_tables(tmp_path, written, Rule(), {"settings": "weights none"})
    read, summary = read_json(tmp_path / "results.json")
    assert summary == {"settings": "weights none"}
    assert list(read) == [str(result.item.path) for result in written]
    for result in written:
        again = read[str(result.item.path)]
        assert again._replace(item=result.item) == result
        assert (again.item.path, again.item.label) == (result.item.path, result.item.label)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]) | scores), max_size=60))
def test_roc_and_auc_are_those_of_scikit_learn(rows):
    """On ties and random scores."""
    rows = [*rows, (True, 0.5), (False, 0.4)]  # both must occur
    real, values = zip(*rows, strict=True)
    labels = ["real" if is_real else "df" for is_real in real]
    false_real, true_real, _ = sklearn.metrics.roc_curve(real, values, drop_intermediate=False)
    np.testing.assert_allclose(compute_roc(labels, values), (false_real, true_real))
    assert compute_auc(labels, values) == pytest.approx(sklearn.metrics.roc_auc_score(real, values))
    eer = np.interp(0, false_real + true_real - 1, false_real)
    assert compute_eer(labels, values) == pytest.approx(eer)
