"""Plots and maps of evidence."""

import os

import keras
import numpy as np
import pytest
from conftest import ROOT, run_script

import pipeline
from classifiers import scale_pixels
from weights import find_weights, load_predictor
from weights.figures import compute_logits, map_evidence

WEIGHTS = find_weights("Meso4_DF")


def test_plot_of_videos(films, tmp_path):
    run_script("deepfakes_images.py", films / "pair.mp4", films / "real", "--plot", tmp_path / "o.png")
    assert pipeline.read_image(tmp_path / "o.png").shape == (640, 1100, 3)
    both = run_script("deepfakes_images.py", films, "test_images", "--plot", tmp_path / "x.png", status=2)
    assert both.stderr == "deepfakes_images.py: --plot takes images or videos, not both\n"
    nobody = films / "nobody.mp4"
    assert (
        "no score to draw"
        in run_script("deepfakes_images.py", nobody, "--plot", tmp_path / "x.png", status=1).stderr
    )
    assert not (tmp_path / "x.png").exists()


def test_logits_are_those_of_the_network(noise):
    from classifiers import load_classifier

    classifier = load_classifier(WEIGHTS.path.with_name("Meso4_DF.weights.h5"))
    last = classifier.model.layers[-1]
    hidden = keras.Model(classifier.model.inputs, last.input).predict_on_batch(scale_pixels(noise))
    kernel, bias = last.get_weights()
    found = compute_logits(load_predictor(WEIGHTS)(noise))
    np.testing.assert_allclose(found, (hidden @ kernel + bias)[:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("half", ["left", "right", "upper", "lower"])
@pytest.mark.parametrize("name", ["collins", "hopper"])
def test_the_map_finds_a_planted_artefact(name, half):
    """Half of a real face is forged: there, not in the other half, more speaks for forged than before."""
    face, forged = (
        pipeline.load_face(ROOT / f"test_images/{label}/{name}.png", "bilinear") for label in ("real", "df")
    )
    where = {"left": np.s_[:, :128], "right": np.s_[:, 128:], "upper": np.s_[:128], "lower": np.s_[128:]}[
        half
    ]
    planted = face.copy()
    planted[where] = forged[where]
    before, evidence = (map_evidence(f, load_predictor(WEIGHTS)) for f in (face, planted))
    inside = np.zeros((256, 256), bool)
    inside[where] = True
    assert evidence.shape == (256, 256)
    assert inside[np.unravel_index((evidence - before).argmax(), evidence.shape)]
    assert evidence[inside].mean() > evidence[~inside].mean()


def test_explained(films, tmp_path):
    run_script("deepfakes_images.py", films / "pair.mp4", ROOT / "test_images/real/obama.png",
               "--explain", tmp_path / "out", "--frames", "3")  # fmt: skip
    assert sorted(os.listdir(tmp_path / "out")) == ["obama.png", "pair.png"]
    for path in (tmp_path / "out").iterdir():
        assert pipeline.read_image(path).std() > 10
