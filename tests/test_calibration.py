"""The bounds of the verdict "uncertain", chosen on held-out videos."""

from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_script
from PIL import Image

import pipeline
from classifiers import Meso4Experts, load_classifier
from training import calibration, data
from training.calibration import calibrate_level, choose_bounds, choose_calibration, compute_interval
from weights import Bounds, Rule, find_weights, load_predictor, read_rule, write_weights
from weights.scoring import score
from weights.scoring.metrics import choose_threshold


def test_bounds_are_the_ranks_of_conformal_prediction():
    real, forged = np.linspace(0.3, 0.9, 39), np.linspace(0.1, 0.5, 19)
    found = choose_bounds(real, forged)
    assert found.lower == pytest.approx(sorted(real)[1])  # (39 + 1) x 0.05 = the second
    assert found.upper == pytest.approx(sorted(forged)[-2])  # (19 + 1) x 0.1 = the second from above
    for few in ((real[:18], forged), (real, forged[:8])):
        with pytest.raises(ValueError, match="they need 20 real and 10 forged videos"):
            choose_bounds(*few)
    apart = choose_bounds(np.full(20, 0.9), np.full(20, 0.1))  # nothing needs to stay uncertain
    assert apart.lower == apart.upper == pytest.approx(0.5)


@pytest.mark.parametrize(("number", "count"), [(0, 20), (1, 46), (30, 300), (5, 5)])
def test_interval_holds_the_shares_that_the_errors_do_not_contradict(number, count):
    """At its ends the errors lie 1.645 standard deviations from what is expected: 5 % beyond each."""
    for share, end in zip(compute_interval(np.arange(count) < number), (-1, 1), strict=True):
        deviations = end * (share - number / count) * np.sqrt(count)
        assert deviations == pytest.approx(1.645 * np.sqrt(share * (1 - share)), abs=0.01)


def test_errors_are_those_on_other_people():
    """A person whose real videos score low is accused by the others' bounds, not by their own."""
    items, scores = [], []
    for number in range(100):
        items.append(pipeline.Item(Path(), "", "real", "a", str(number)))
        items.append(pipeline.Item(Path(), "", "df", "a", f"swap_{number}"))
        scores += [0.5 + 0.001 * number, 0.4 + 0.001 * number]
    items += [pipeline.Item(Path(), "", "real", name, "low") for name in "abcde"]  # one person, in five sets
    scores += [0.1] * 5
    found, kinds = calibrate_level(items, np.array(scores), [[index] for index in range(len(items))])
    assert found["lower"] == 0.1  # the fifth of all 105: nobody lies below it
    assert kinds["real"]["deepfake"] == 5  # but they lie below the bound by all the others
    assert (found["real"], found["forged"]) == (105, 100)
    assert found["real_called_deepfake"] == pytest.approx(5 / 105)
    assert found["real_error_interval"] == compute_interval(np.arange(105) < 5)


def make_face_set(path, videos):
    """Return a FaceSet of so many real and forged videos of three faces, and scores."""
    items, scores = [], []
    for video in range(2 * videos):
        label, name = ("real", str(video)) if video < videos else ("df", f"swap_{video - videos}")
        for frame in range(3):
            items.append(pipeline.Item(path, f"{video}-{frame}", label, "set", name))
            start, step = (0.5, 0.02) if label == "real" else (0.1, 0.03)
            scores.append(start + step * (video % videos) + 0.001 * frame)
    labels = np.array([[item.label == "real"] for item in items], np.float32)
    return data.FaceSet(items, np.zeros((len(items), 256, 256, 3), np.uint8), labels, []), np.array(scores)


@pytest.fixture
def noise_path(tmp_path, noise):
    Image.fromarray(noise[0, :130, :130]).save(tmp_path / "noise.png")
    return tmp_path / "noise.png"


def test_calibration_of_a_set(noise_path):
    face_set, scores = make_face_set(noise_path, 20)
    found = choose_calibration(face_set, scores, pipeline.View())
    assert found["video"]["lower"] == pytest.approx(0.501)  # the lowest
    assert found["video"]["upper"] == pytest.approx(0.641)  # the second from above
    assert found["face"]["real"] == 20  # one face for each video
    # each judged by bounds without its own group: the lowest real one, the second highest forged one
    assert found["kinds"] == {
        "real": {"deepfake": 1, "uncertain": 7, "real": 12},
        "swap": {"deepfake": 14, "uncertain": 4, "real": 2},
    }
    assert found["video"]["real_called_deepfake"] == pytest.approx(1 / 20)
    assert found["video"]["forged_called_real"] == pytest.approx(2 / 20)
    assert found["video"]["uncertain"] == pytest.approx(11 / 40)
    assert found["min_size"] == pytest.approx(100)  # 130 pixels / 1.3
    sharpness = pipeline.measure_sharpness(pipeline.read_image(noise_path))
    assert found["min_sharpness"] == pytest.approx(sharpness, rel=0.01)
    view = pipeline.View("bilinear", 0.936)  # crops that do not say how wide they were cut are seen whole
    assert choose_calibration(face_set, scores, view)["min_size"] == pytest.approx(138.9, abs=0.1)
    pipeline.write_crop(pipeline.read_image(noise_path), noise_path)
    assert choose_calibration(face_set, scores, view)["min_size"] == pytest.approx(100)
    with pytest.raises(ValueError, match="they need 20 real"):
        choose_calibration(*make_face_set(noise_path, 15), view)


class Fake:
    """A classifier that gives the faces of a set, whose first pixels count them, the scores it was given."""

    def __init__(self, face_set, scores):
        self.scores = scores
        face_set.faces[:, :, ::255, :2] = np.stack(np.divmod(np.arange(len(scores)), 256), -1)[:, None, None]

    def predict(self, faces):
        return self.scores[faces[:, 0, 0, :2].astype(int) @ (256, 1)][:, None]


def test_a_card_gets_threshold_bounds_figures_and_maps(noise_path, monkeypatch):
    monkeypatch.setattr(calibration, "MAPPED", 2)
    face_set, scores = make_face_set(noise_path, 20)
    card, report = calibration.calibrate_card({"resampling": "nearest"}, Fake(face_set, scores), face_set)
    assert 0.05 <= card["threshold"] <= 0.95
    found = card["calibration"]
    face, video = (Bounds(*(found[kind][name] for name in Bounds._fields)) for kind in ("face", "video"))
    limits = (found["min_size"], found["min_sharpness"])
    assert read_rule(card) == Rule(card["threshold"], face, video, *limits)
    del found["video"]["lower"]
    with pytest.raises(KeyError):
        read_rule(card)
    assert card["calibrated_on"]["set df"] == {"images": 60, "videos": 20}
    assert card["maps"]["faces"] == 2
    assert "videos: deepfake below 0.501, real above 0.641" in report
    found = card["validation"]["all"]["image"]
    assert f"AUC of all: {found['auc']:.3f} by image" in report
    assert "worse than chance" not in report
    _, report = calibration.calibrate_card(card, Fake(face_set, 1 - scores), face_set)
    assert "worse than chance: these weights do not suit these faces" in report


def test_the_threshold_chosen_is_the_best():
    items = [pipeline.Item(Path(f"{label}{i}"), "", label, "", f"{label}{i}") for label in ("df", "real")
             for i in range(4)]  # fmt: skip
    assert choose_threshold(items, [0.1, 0.2, 0.3, 0.62, 0.66, 0.7, 0.8, 0.9]) == 0.65
    assert choose_threshold(items, [0.1, 0.2, 0.3, 0.3, 0.66, 0.7, 0.8, 0.9]) == 0.5
    assert choose_threshold(items, [0.1, 0.2, 0.3, 0.3, 0.36, 0.7, 0.8, 0.9]) == 0.35


def test_joined_experts_multiply_their_scores(noise):
    """Each expert's logits of real faces are brought to mean 2 and deviation 1.5."""
    experts = [load_classifier(ROOT / f"weights/{name}.weights.h5") for name in ("Meso4_DF", "Meso4_F2F")] * 2
    joined, product = Meso4Experts(), 1.0
    calibration.join_experts(joined, experts, noise)
    for expert in experts:
        scores = expert.predict(noise)[:, 0].astype(float)
        logits = np.log(scores / (1 - scores))
        product = product / (1 + np.exp(-2 - 1.5 * (logits - logits.mean()) / logits.std()))
    np.testing.assert_allclose(joined.predict(noise)[:, 0], product, atol=1e-4)
    with pytest.raises(ValueError, match="by several real faces, not 1"):
        calibration.join_experts(joined, experts, noise[:1])


def test_experts_say_which_forgery_it_looks_like(noise, tmp_path):
    """The exported network has a column for each; the lowest names the kind."""
    joined = Meso4Experts()
    authors = [load_classifier(ROOT / f"weights/{name}.weights.h5") for name in ("Meso4_DF", "Meso4_F2F")]
    calibration.join_experts(joined, authors * 2, noise)
    card = {"resampling": "bilinear", "threshold": 0.5, "experts": {"A": {}, "B": {}, "C": {}, "D": {}}}
    write_weights(joined, tmp_path / "joined", card)
    weights = find_weights(tmp_path / "joined")
    scores = load_predictor(weights)(noise)
    assert scores.shape == (len(noise), 5)
    np.testing.assert_allclose(scores[:, 1:].prod(axis=1), scores[:, 0], rtol=1e-4)
    np.testing.assert_allclose(scores[:, :1], joined.predict(noise), atol=1e-4)
    (result,) = score([ROOT / "test_images/df/biden.png"], weights, align=True)
    face = pipeline.find_faces_in_photo(pipeline.read_image(result.item.path))[0]
    found = load_predictor(weights)(pipeline.view_face(face.crop, weights.view)[None])[0]
    assert result.verdict == "deepfake"
    assert result.faces[0].looks_like == result.looks_like == "ABCD"[found[1:].argmin()]
    assert result.remarks.startswith(f"looks like {result.looks_like}")


def test_two_images_take_no_bounds_away(tmp_path, monkeypatch):
    """The command writes a new set; too few videos give a line; a name that is taken is refused."""
    monkeypatch.setattr(calibration, "MAPPED", 1)
    for label in pipeline.LABELS:
        (tmp_path / "data" / label).mkdir(parents=True)
        Image.open(ROOT / f"test_images/{label}/hopper.png").save(tmp_path / "data" / label / "1.png")
    before = (ROOT / "weights/Meso4_DF.json").read_bytes()
    command = ("Meso4_DF", "--data", tmp_path / "data", "--name", tmp_path / "new/mine")
    done = run_script("training/calibrate.py", *command)
    assert 'no bounds of "uncertain": they need 20 real and 10 forged videos' in done.stdout
    assert done.stdout.endswith(f"wrote {tmp_path}/new/mine.weights.h5, .tflite and .json\n")
    assert (ROOT / "weights/Meso4_DF.json").read_bytes() == before
    for ending in (".tflite", ".weights.h5"):
        weights = find_weights(tmp_path / f"new/mine{ending}")
        assert weights.view == find_weights("Meso4_DF").view._replace(mirrored=True)
        assert weights.rule.video is None
        counts = {"images": 1, "videos": 1}
        assert weights.card["calibrated_on"] == {"df": counts, "real": counts}
    command = ("Meso4_F2F", *command)
    run_script("training/calibrate.py", *command[:-1], tmp_path / "new/both")
    names = ("Meso4_DF", "Meso4_F2F")
    mean, *parts = (
        load_classifier(path).model.get_weights()
        for path in (
            tmp_path / "new/both.weights.h5",
            *(ROOT / f"weights/{name}.weights.h5" for name in names),
        )
    )
    for average, first, second in zip(mean, *parts, strict=True):
        np.testing.assert_allclose(average, (first + second) / 2, rtol=1e-5, atol=1e-7)
    assert set(find_weights(tmp_path / "new/both").card["averaged"]) == set(names)
    command = command[1:]
    for wrong, reason in (
        (command, "mine.json already exists: choose another --name"),
        (("none", *command[1:4], tmp_path / "other"), "none: no such weights"),
        ((*command[:2], tmp_path / "none", "--name", tmp_path / "other"), "none: no such folder"),
        ((ROOT / "weights/Meso4_DF.tflite", *command[1:4], tmp_path / "other"), "must be Keras weights"),
        (("Meso4_DF", *command[:4], tmp_path / "other"), "several WEIGHTS must have different names"),
        (("MesoInception_DF", *command[:4], tmp_path / "other"), "one network and one view"),
    ):
        done = run_script("training/calibrate.py", *wrong, status=2)
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1
