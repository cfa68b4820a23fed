"""ROC, AUC, accuracy, per image and per video. See also test_properties.py."""

from pathlib import Path

import pytest

import pipeline
from weights import Bounds, Rule
from weights.scoring.metrics import evaluate, evaluate_by_dataset, evaluate_results
from weights.scoring.scores import Result
from weights.scoring.verdicts import verdict_of


def test_evaluate_known_figures():
    labels = ["df", "df", "df", "df", "real", "real"]
    found = evaluate(labels, [0.1, 0.2, 0.3, 0.9, 0.8, 0.4], 0.5)
    assert found["accuracy_df"] == 0.75
    assert found["accuracy_real"] == 0.5
    assert found["balanced_accuracy"] == 0.625
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["auc"] == pytest.approx(6 / 8)
    assert found["eer"] == pytest.approx(0.25)
    assert "auc" not in evaluate(["df", "df"], [0.1, 0.2], 0.5)


def test_video_level_is_the_mean_of_its_images():
    def score(label, video, value):
        image = pipeline.Item(pipeline.Path("x.png"), label, "", video)
        return Result(image, value, verdict_of(value, 0.5), "")

    scores = [score("df", "a", 0.1), score("df", "a", 0.7), score("real", "a", 0.9), score("", "b", 0.0)]
    levels = evaluate_results(scores, Rule())
    assert levels["image"]["count"] == 3
    assert levels["image"]["accuracy_df"] == 0.5
    assert levels["video"]["count"] == 2  # a forged and a real video may share a name
    assert levels["video"]["accuracy_df"] == 1.0
    assert evaluate_results(scores[3:], Rule()) == {}


def test_kinds_of_forgery_and_the_share_that_is_uncertain():
    def result(label, name, score):
        return Result(pipeline.Item(Path(name), label, "set", f"set-{name}"), score, "", "")

    scores = [result("real", f"{video}", 0.8) for video in (1, 2) for _ in range(3)]
    scores += [result("df", f"swap_{video}", 0.2) for video in (1, 2) for _ in range(3)]
    scores += [result("df", "f2f_1", score) for score in (0.6, 0.9, 0.75)]
    rule = Rule(0.5, 0.78, Bounds(0.5, 0.7, 1), Bounds(0.7, 0.78, 1))
    found = evaluate_by_dataset(scores, rule)
    assert list(found) == ["set f2f", "set swap", "all", "mean"]
    assert found["set swap"]["image"]["auc"] == 1
    assert found["set f2f"]["image"]["auc"] == pytest.approx(2 / 3)  # one of three above the real ones
    assert found["set f2f"]["video"]["accuracy_df"] == 1  # the mean is 0.75, below the video's threshold
    assert found["all"]["image"]["uncertain"] == pytest.approx(1 / 15)
    other = Result(pipeline.Item(Path("x"), "df", "set", "set-7"), 0.9, "", "")
    alone = Result(pipeline.Item(Path("x"), "real", "b", "b-1"), 0.9, "", "")
    named = evaluate_by_dataset([*scores, other, alone], rule)
    assert named["set other"]["image"]["accuracy_df"] == 0
    assert named["set"]["image"]["count"] == 16  # all of them
    assert found["all"]["video"]["uncertain"] == pytest.approx(1 / 5)
