"""What holds for all inputs, not only for those thought of: crops, names, tables, figures."""

from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pipeline
from weights import Rule
from weights.scoring.metrics import compute_auc
from weights.scoring.results import read_json, write_tables
from weights.scoring.scores import Result
from weights.scoring.verdicts import classify

# the same cases in every run, however busy the machine is
fixtures = [HealthCheck.function_scoped_fixture]
settings.register_profile(
    "ours", None, deadline=None, derandomize=True, database=None, suppress_health_check=fixtures
)
settings.load_profile("ours")

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


@given(st.text(max_size=60))
def test_what_is_shown_is_one_line(text):
    assert len(pipeline.printable(text).splitlines()) <= 1
    assert len(pipeline.describe_error(ValueError(text)).splitlines()) <= 1


rounded = scores.map(lambda score: round(score, 6))
labelled = st.tuples(names, st.none() | rounded, st.sampled_from(["df", "real", ""]), st.booleans())


@given(st.lists(labelled, max_size=8, unique_by=lambda row: str(Path(row[0]))))
def test_results_are_given_back_as_they_were_written(tmp_path, rows):
    face, written = pipeline.Face(3, 0.12, (1, 2, 3, 4), pipeline.Pose(1.0, 2.0, 3.0, 4.0), 1), []
    for name, score, label, is_video in rows:
        item = pipeline.Item(Path(name), name, label, kind="video" if is_video else "image")
        if score is None:
            written.append(Result(item, None, "error", "unreadable"))
        else:
            verdict, faces = classify(score, item.kind, Rule()), (face._replace(score=score),) * is_video
            written.append(Result(item, score, verdict, "", 30 * is_video, faces))
    write_tables(tmp_path, written, Rule(), {"settings": "weights none"})
    read, summary = read_json(tmp_path / "results.json", Rule())
    assert summary == {"settings": "weights none"}
    assert list(read) == [str(result.item.path) for result in written]
    for result in written:
        again = read[str(result.item.path)]
        assert again._replace(item=result.item) == result
        assert (again.item.path, again.item.label) == (result.item.path, result.item.label)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]) | scores), max_size=60))
def test_auc_is_that_of_scikit_learn(rows):
    """On ties and random scores."""
    rows = [*rows, (True, 0.5), (False, 0.4)]  # both must occur
    real, values = zip(*rows, strict=True)
    labels = ["real" if is_real else "df" for is_real in real]
    assert compute_auc(labels, values) == pytest.approx(sklearn.metrics.roc_auc_score(real, values))
