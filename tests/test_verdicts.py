"""Scores to verdicts: thresholds, bounds, people, faces that decide nothing."""

import pytest

import pipeline
from weights import Bounds, Rule, list_thresholds, read_rule
from weights.scoring.verdicts import classify, decide, lower_bound
from weights.scoring.words import describe_threshold

BOUNDS = Bounds(0.4, 0.6, 0.5)
RULE = Rule(0.5, 0.55, Bounds(0.3, 0.7, 1.0), BOUNDS, 80.0, 10.0)


def make_faces(score, number=5, person=1, size=100.0, sharpness=50.0):
    pose = pipeline.Pose(0.0, 0.0, size, 0.0)
    return [
        pipeline.Face(i, i / 25, (0, 0, 9, 9), pose, person, sharpness, score=score) for i in range(number)
    ]


@pytest.mark.parametrize(
    ("score", "kind", "verdict"),
    [
        (0.39, "video", "deepfake"),
        (0.4, "video", "uncertain"),
        (0.6, "video", "uncertain"),
        (0.61, "video", "real"),
        (0.39, "photo", "uncertain"),
        (0.29, "photo", "deepfake"),
        (0.71, "photo", "real"),
    ],
)
def test_three_verdicts(score, kind, verdict):
    assert decide(make_faces(score), kind, RULE) == (pytest.approx(score), verdict, "")


def test_without_calibration_the_threshold_of_the_level_decides():
    rule = Rule(0.5, 0.55)
    assert decide(make_faces(0.52), "video", rule)[1] == "deepfake"
    assert decide(make_faces(0.52), "photo", rule)[1] == "real"
    assert decide([], "video", rule) == (None, "no face", "")


def test_who_is_hardly_seen_decides_nothing():
    for rule in (RULE, Rule()):
        assert decide(make_faces(0.9, 20) + make_faces(0.1, 2, 2), "video", rule)[:2] == (
            pytest.approx(0.9),
            "real",
        )
        found = decide(make_faces(0.9, 20) + make_faces(0.1, 3, 2), "video", rule)
        warning = f"the lowest of 2 people decides{' (deepfake below 0.363)' if rule is RULE else ''}"
        assert found == (pytest.approx(0.1), "deepfake", warning)
    score, verdict, warning = decide(make_faces(0.9, 2) + make_faces(0.1, 1, 2), "video", RULE)
    assert (score, verdict, warning) == (pytest.approx(0.1), "uncertain", "too few clear faces to decide")


def test_small_and_blurred_faces_decide_nothing():
    clear = make_faces(0.9)
    score, verdict, warning = decide(clear + make_faces(0.0, 9, 2, size=79), "video", RULE)
    assert (score, verdict, warning) == (pytest.approx(0.9), "real", warning)
    assert warning == "9 of 14 faces small, 1 of 2 people not counted: too few clear faces to decide"
    score, verdict, warning = decide(make_faces(0.0, 9, size=79, sharpness=9), "video", RULE)
    assert (score, verdict) == (0.0, "uncertain")
    assert warning == "too few clear faces to decide, 9 of 9 faces small, 9 of 9 faces blurred"
    # the mean of a person who decides is that of all faces, as published
    assert decide(clear + make_faces(0.0, 5, size=79), "video", RULE)[0] == pytest.approx(0.45)
    # but most of them must be clear
    assert decide(clear + make_faces(0.0, 6, size=79), "video", RULE)[1] == "uncertain"


def test_more_people_need_a_lower_score():
    bounds = [lower_bound(BOUNDS, people) for people in (1, 2, 6)]
    assert bounds == pytest.approx([0.4, 0.36285, 0.31431], abs=1e-4)
    assert classify(0.35, "video", RULE, 1) == "deepfake"
    assert classify(0.35, "video", RULE, 6) == "uncertain"
    assert classify(0.35, "video", RULE, 0) == "uncertain"  # nobody decides


def test_rules_of_cards():
    assert read_rule({"threshold": 0.4}) == Rule(0.4, 0.4)
    level = {"lower": 0.4, "upper": 0.6, "spread": 0.5, "threshold": 0.55, "real": 19, "forged": 9}
    level |= {"real_called_deepfake": 0, "forged_called_real": 0, "uncertain": 0}
    card = {
        "threshold": 0.5,
        "calibration": {"face": level, "video": level, "min_size": 80, "min_sharpness": 9},
    }
    assert read_rule(card) == Rule(0.5, 0.55, BOUNDS, BOUNDS, 80.0, 9.0)
    assert list_thresholds(read_rule(card)) == [0.5, 0.55, 0.4, 0.6, 0.4, 0.6]
    with pytest.raises(KeyError):
        read_rule({"threshold": 0.5, "calibration": {"face": {}}})


@pytest.mark.parametrize(
    ("kinds", "told"),
    [
        ({"image"}, "Below 0.55 is called a deepfake"),
        ({"video"}, "Scores below 0.6 count as deepfake in the percentage"),
        ({"photo"}, "Scores below 0.55 count as deepfake in the percentage"),
        ({"image", "video"}, "Scores below 0.55, of videos below 0.6, count as deepfake in the percentage"),
    ],
)
def test_the_threshold_told_is_that_of_what_was_scored(kinds, told):
    assert describe_threshold(kinds, Rule(0.55, 0.6)) == told
