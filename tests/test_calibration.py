"""The bounds of the verdict "uncertain", chosen on held-out videos."""

import numpy as np
import pytest
from PIL import Image

import pipeline
from training.calibration import calibrate, choose_bounds, compute_interval, measure_faces


def test_bounds_are_the_ranks_of_conformal_prediction():
    real, forged = np.linspace(0.3, 0.9, 39), np.linspace(0.1, 0.5, 19)
    found = choose_bounds(real, forged)
    assert found["lower"] == pytest.approx(sorted(real)[1])  # (39 + 1) x 0.05 = the second
    assert found["upper"] == pytest.approx(sorted(forged)[-2])  # (19 + 1) x 0.1 = the second from above
    assert found["real_called_deepfake"] == pytest.approx(1 / 39)
    assert found["forged_called_real"] == pytest.approx(1 / 19)
    assert (found["real"], found["forged"]) == (39, 19)


def test_new_videos_err_no_more_often_than_promised():
    random = np.random.default_rng(0)
    errors = []
    for _ in range(400):
        found = choose_bounds(random.normal(0.6, 0.1, 46), random.normal(0.4, 0.1, 59))
        errors.append([
            np.mean(random.normal(0.6, 0.1, 400) < found["lower"]),
            np.mean(random.normal(0.4, 0.1, 400) > found["upper"]),
        ])  # fmt: skip
    assert np.all(np.mean(errors, axis=0) <= (0.05, 0.105))


def test_where_scores_are_apart_nothing_is_uncertain():
    found = choose_bounds([0.9] * 20, [0.1] * 20)
    assert found["lower"] == found["upper"] == pytest.approx(0.5)


def test_too_few_videos_promise_nothing():
    assert choose_bounds([0.9] * 18, [0.1] * 20) is None
    assert choose_bounds([0.9] * 20, [0.1] * 8) is None


def test_interval_is_that_of_the_beta_distribution():
    assert compute_interval(2, 46) == pytest.approx([0.008, 0.099], abs=0.001)  # scipy.stats.beta(2, 45)


def test_calibration_of_a_set(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (130, 130, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.png")
    images, scores = [], []
    for video in range(40):
        label, name = ("real", f"set-{video}") if video < 20 else ("df", f"set-swap_{video - 20}")
        for frame in range(3):
            images.append(pipeline.Item(tmp_path / "x.png", label, "set", name))
            start, step = (0.5, 0.02) if label == "real" else (0.1, 0.03)
            scores.append(start + step * (video % 20) + 0.001 * frame)
    found = calibrate(images, np.array(scores), 0.5, pipeline.View())
    assert found["video"]["lower"] == pytest.approx(0.501)  # the lowest
    assert found["video"]["upper"] == pytest.approx(0.641)  # the second from above
    assert found["face"]["real"] == 20  # one face for each video
    assert found["video"]["threshold"] in (0.55, 0.6)  # between the two: it contradicts no verdict
    assert found["video"]["kinds"]["set swap"] == {"deepfake": 14, "uncertain": 5, "real": 1}
    assert found["min_size"] == pytest.approx(100)  # 130 pixels / 1.3
    assert found["min_sharpness"] == pytest.approx(pipeline.measure_sharpness(noise), rel=0.01)
    pairs = [(real, df) for real in range(20) for df in range(20)]
    above = [0.5 + 0.02 * real > 0.1 + 0.03 * df for real, df in pairs]
    assert found["aggregation_auc"]["mean"] == pytest.approx(np.mean(above), abs=0.006)  # ties
    assert calibrate(images[:30], np.array(scores[:30]), 0.5, pipeline.View()) is None


def test_sizes_are_those_that_faces_in_videos_have(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (130, 130, 3), dtype=np.uint8)
    pipeline.write_crop(noise, tmp_path / "noted.png")
    Image.new("RGB", (130, 130)).save(tmp_path / "plain.png")  # seen whole
    noted, plain = (pipeline.Item(tmp_path / f"{name}.png", "df", "", "x") for name in ("noted", "plain"))
    view = pipeline.View("bilinear", 0.936)
    sharpness = pytest.approx(pipeline.measure_sharpness(noise), rel=0.01)
    assert measure_faces([noted], view) == (100, sharpness)
    assert measure_faces([plain], view) == (pytest.approx(138.9, abs=0.1), 0)
