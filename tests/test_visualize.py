"""What the networks look for: mean activations, and what excites the hidden units."""

import keras
import numpy as np
from conftest import ROOT, run_script

import pipeline
from classifiers import Meso4Experts, load_classifier, scale_pixels
from training import visualize

SCRIPT = "training/visualize.py"


def test_units_are_excited_and_activations_are_means(noise, monkeypatch):
    monkeypatch.setattr(visualize, "STEPS", 10)
    model = load_classifier(ROOT / "weights/Meso4_DF.weights.h5").model
    images, weights = visualize.excite_units(model)
    assert images.shape == (16, 256, 256, 3)
    assert weights.shape == (16,)
    hidden = keras.Model(model.inputs, model.layers[-1].input)
    grey = np.full((1, 256, 256, 3), 128, np.uint8)
    before = hidden.predict_on_batch(scale_pixels(grey))[0]
    after = np.diag(hidden.predict_on_batch(scale_pixels(images)))
    assert (after > before + 5).all()
    found = visualize.average_activations(model, noise)
    shapes = {name: maps.shape for name, maps in found.items()}
    assert shapes == {"first": (256, 256), "last": (32, 32)}
    single = [visualize.average_activations(model, noise[i : i + 1])["last"] for i in range(4)]
    np.testing.assert_allclose(found["last"], np.mean(single, axis=0), rtol=1e-4, atol=1e-5)


def test_the_command_draws_both(tmp_path, monkeypatch):
    monkeypatch.setattr(visualize, "STEPS", 1)
    done = run_script(SCRIPT, ROOT / "test_images", "--weights", "Meso4_F2F", "--output", tmp_path)
    assert done.stderr == ""
    for name in ("activations", "units"):
        assert str(tmp_path / f"Meso4_F2F-{name}.png") in done.stdout
        assert pipeline.read_image(tmp_path / f"Meso4_F2F-{name}.png").std() > 10


def test_what_cannot_be_drawn_is_one_line(tmp_path):
    Meso4Experts().save(tmp_path / "four.weights.h5")
    for arguments, reason in (
        ([tmp_path], "must hold images in folders named df or real"),
        (["--weights", ROOT / "weights/Meso4_DF.tflite"], "must be Keras weights"),
        (["--weights", "none"], "none: no such weights"),
        (["--weights", tmp_path / "four.weights.h5"], "must hold one network: draw each expert by itself"),
    ):
        error = run_script(SCRIPT, *arguments, "--output", tmp_path, status=2).stderr
        assert reason in error
        assert error.count("\n") == 1
