"""ROC, AUC, accuracy, per image and per video. See also test_properties.py."""

import pytest

import pipeline
from weights.metrics import evaluate, evaluate_results
from weights.scores import Result
from weights.verdicts import verdict_of


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
    levels = evaluate_results(scores, 0.5)
    assert levels["image"]["count"] == 3
    assert levels["image"]["accuracy_df"] == 0.5
    assert levels["video"]["count"] == 2  # a forged and a real video may share a name
    assert levels["video"]["accuracy_df"] == 1.0
    assert evaluate_results(scores[3:], 0.5) == {}
