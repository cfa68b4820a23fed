"""Faces to scores, scores to verdicts."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

import pipeline
from weights import Rule, find_weights, load_predictor
from weights.scoring.scores import Result, load_scored_face, score_crops, summarize
from weights.scoring.verdicts import verdict_of


def test_scores_do_not_depend_on_batch_size():
    images = pipeline.find_images([ROOT / "test_images"])
    weights = find_weights("Meso4_DF")
    predict = load_predictor(weights)
    by_size = [
        [s.score for s in score_crops(images, predict, weights.view, 0.5, size)] for size in (1, 3, 32)
    ]
    np.testing.assert_allclose(by_size[0], by_size[1], atol=1e-6)
    np.testing.assert_allclose(by_size[0], by_size[2], atol=1e-6)


def test_judge_and_summarize():
    image = pipeline.parse_labels(pipeline.Path("a.png"), ())
    scores = [Result(image, score, verdict_of(score, 0.4), "") for score in (0.4, 0.3999, 1.0, None)]
    assert [s.verdict for s in scores] == ["real", "deepfake", "real", "error"]
    found = summarize(scores, Rule(0.4))
    assert found["average_score"] == pytest.approx(0.599967, abs=1e-6)
    assert found["deepfake_percent"] == pytest.approx(100 / 3)
    assert (found["files"], found["scored"], found["skipped"]) == (4, 3, 1)
    nothing = summarize(scores[3:], Rule(0.4))
    assert nothing["average_score"] is None
    assert nothing["verdict"] == "error"


def test_a_score_that_is_no_number_is_an_error():
    images = pipeline.find_images([ROOT / "test_images/real"])
    scores = list(score_crops(images, lambda x: np.full(len(x), np.nan), pipeline.View(), 0.5))
    assert {(s.score, s.verdict) for s in scores} == {(None, "error")}
    assert "they gave the score nan" in scores[0].error


WEIGHTS = find_weights("Meso4_DF")


def test_several_threads_share_the_network(noise):
    predict = load_predictor(WEIGHTS)
    expected = [predict(noise[: i % 4 + 1]) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for i, found in enumerate(pool.map(lambda i: predict(noise[: i % 4 + 1]), range(80))):
            np.testing.assert_array_equal(found, expected[i % 8])


def test_a_file_that_vanishes_while_others_are_scored(tmp_path, photo):
    for number in range(3):
        photo.save(tmp_path / f"{number}.png")
    images = pipeline.find_images([tmp_path])
    (tmp_path / "1.png").unlink()
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:2000])
    found = list(score_crops(images, lambda faces: np.ones(len(faces)), pipeline.View("bilinear"), 0.5))
    assert [score.verdict for score in found] == ["real", "error", "error"]
    assert [Path(score.item.path).name for score in found] == ["0.png", "1.png", "2.png"]


def test_a_pose_larger_than_its_picture_is_not_cut_out():
    """A table to resume may say so; 95 GiB would be needed."""
    item = pipeline.Item(ROOT / "test_images/real/obama.png", "", "", "")
    face = pipeline.Face(0, 0.0, (0, 0, 90, 90), pipeline.Pose(128, 128, 100, 0), 0, 9.0, score=0.5)
    result = Result(item, 0.5, "real", "", "photo", 1, (face,))
    assert load_scored_face(result, face, pipeline.View()).shape == (256, 256, 3)
    huge = face._replace(pose=pipeline.Pose(0, 0, 100_000, 0))
    assert load_scored_face(result, huge, pipeline.View()) is None
