"""Plots and maps of evidence."""

import os

import keras
import numpy as np
import pytest
from conftest import ROOT, run_script
from matplotlib.figure import Figure

import pipeline
from classifiers import scale_pixels
from weights import find_weights, load_predictor
from weights.scoring.evidence import (
    compute_logits,
    describe_evidence,
    map_evidence,
    measure_evidence,
    measure_normal,
)
from weights.scoring.figures import draw_video
from weights.scoring.scores import Result

WEIGHTS = find_weights("Meso4_DF")
VIEW = pipeline.View("bilinear")


def test_plot_of_videos(films, tmp_path):
    run_script("deepfakes_images.py", films / "pair.mp4", "--plot", tmp_path / "one.png")
    assert pipeline.read_image(tmp_path / "one.png").shape == (320, 1100, 3)
    # images and videos together: all scores, the lowest face of each, a timeline for each video
    run_script("deepfakes_images.py", films, "test_images", "--plot", tmp_path / "all.png", status=1)
    assert pipeline.read_image(tmp_path / "all.png").shape == (
        100 * (2 * 175 + 30 + 360 + 3 * 320) // 100,
        1100,
        3,
    )
    nobody = films / "nobody.mp4"
    assert (
        "no score to draw"
        in run_script("deepfakes_images.py", nobody, "--plot", tmp_path / "x.png", status=1).stderr
    )
    assert not (tmp_path / "x.png").exists()


@pytest.mark.filterwarnings("error")
def test_a_timeline_of_many_people_shows_the_lowest(tmp_path):
    face = pipeline.Face(0, 0.0, (0, 0, 90, 90), pipeline.Pose(45, 45, 90, 0), 0, 9.0)
    faces = tuple(face._replace(person=i, score=1 - i / 2000) for i in range(1, 2000))
    item = pipeline.Item(tmp_path / "gone.mp4", "", "", "", is_video=True)
    figure = Figure(layout="constrained")
    draw_video(figure.subfigures(), Result(item, 0.1, "deepfake", "", "video", 1, faces), WEIGHTS)
    figure.savefig(tmp_path / "x.png")
    legend = figure.subfigs[0].axes[0].get_legend()
    assert legend.get_title().get_text() == "the lowest 8 of 1999 people"
    assert legend.get_texts()[0].get_text() == "person 1992: mean 0.004, deepfake"


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
        pipeline.load_face(ROOT / f"test_images/{label}/{name}.png", VIEW) for label in ("real", "df")
    )
    where = {"left": np.s_[:, :128], "right": np.s_[:, 128:], "upper": np.s_[:128], "lower": np.s_[128:]}[
        half
    ]
    planted = face.copy()
    planted[where] = forged[where]
    before, evidence = (map_evidence(measure_evidence(f, load_predictor(WEIGHTS))) for f in (face, planted))
    inside = np.zeros((256, 256), bool)
    inside[where] = True
    assert evidence.shape == (256, 256)
    assert inside[np.unravel_index((evidence - before).argmax(), evidence.shape)]
    assert evidence[inside].mean() > evidence[~inside].mean()


def test_maps_say_what_is_unusual():
    images = pipeline.find_images([ROOT / "test_images"])
    faces = {label: np.stack(list(pipeline.load_faces([i for i in images if i.label == label], VIEW)))
             for label in pipeline.LABELS}  # fmt: skip
    predict = load_predictor(WEIGHTS)
    found = measure_normal(faces["real"], predict)
    assert np.shape(found["normal"]) == (15, 15)
    own = [describe_evidence(measure_evidence(face, predict), {"maps": found}) for face in faces["real"]]
    assert sum(line.startswith("Nothing unusual") for line in own) >= 3  # 95 % of four, as quantiles go
    forged = np.array(found["normal"])
    forged[13, 2] += found["usual"] + 0.1
    line = describe_evidence(forged, {"maps": found})
    assert line.startswith("Unusual: a patch in the lower left part of the picture is stronger than any")
    assert describe_evidence(forged, {}) == ""


def test_explained(films, tmp_path):
    run_script("deepfakes_images.py", films / "pair.mp4", ROOT / "test_images/real/obama.png",
               "--explain", tmp_path / "out", "--frames", "3")  # fmt: skip
    assert sorted(os.listdir(tmp_path / "out")) == ["obama.png", "pair.png"]
    for path in (tmp_path / "out").iterdir():
        assert pipeline.read_image(path).std() > 10
