"""The networks: architecture, the authors' weights to the digit, and the input contract."""

import json
import os
import re

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import start
from PIL import Image

from classifiers import MODELS, Meso4, MesoInception4, load_classifier, scale_pixels
from training.trainer import BatchNormalization, quicken

AUTHORS = ["Meso4_DF", "Meso4_F2F", "MesoInception_DF", "MesoInception_F2F"]


@pytest.mark.parametrize(("name", "trainable"), [("Meso4", 27_977), ("MesoInception4", 28_615)])
def test_networks_are_the_published_ones(name, trainable):
    model = MODELS[name](learning_rate=0.002).model
    assert isinstance(model.optimizer, keras.optimizers.Adam)  # compiled as published
    assert float(model.optimizer.learning_rate) == pytest.approx(0.002)
    assert model.loss == "mean_squared_error"
    assert sum(np.prod(w.shape) for w in model.trainable_weights) == trainable
    assert model.output_shape == (None, 1)


@pytest.mark.parametrize("name", AUTHORS)
def test_authors_weights_give_golden_scores(shared, noise, gradient, name):
    golden = json.loads((shared / "golden/scores.json").read_text())["scores"][name]
    classifier = load_classifier(shared / f"published_weights/{name}.h5")
    np.testing.assert_allclose(classifier.predict(noise)[:, 0], golden["noise"], atol=2e-6)
    np.testing.assert_allclose(classifier.predict(gradient)[:, 0], golden["gradient"], atol=2e-6)
    for name_of_filter in ("nearest", "bilinear"):
        resample = Image.Resampling[name_of_filter.upper()]
        faces = []
        for path in golden[name_of_filter]:
            image = Image.open(shared / "published_images" / path).convert("RGB")
            faces.append(np.asarray(image.resize((256, 256), resample)))
        scores = classifier.predict(np.stack(faces))[:, 0]
        np.testing.assert_allclose(scores, list(golden[name_of_filter].values()), atol=2e-6)


@pytest.fixture(scope="module")
def meso4():
    return Meso4()


def test_uint8_and_float_are_the_same_faces_in_any_batch(meso4, noise):
    as_float, scores = scale_pixels(noise), meso4.predict(noise)
    assert (scores.shape, scores.dtype) == ((4, 1), np.float32)
    np.testing.assert_allclose(as_float, noise / 255, atol=1e-7)
    np.testing.assert_array_equal(scores, meso4.predict(as_float))
    np.testing.assert_allclose(scores, meso4.predict(as_float.astype(np.float64)), atol=1e-7)
    np.testing.assert_allclose(scores, meso4.predict(noise, batch_size=3), atol=1e-6)
    assert meso4.predict(noise[:0]).shape == (0, 1)


def test_predict_refuses_what_is_no_batch_of_faces(meso4):
    for value, seen in ((1.01, "1.01"), (255.0, "divide by 255"), (-0.1, "-0.1"), (np.nan, "nan")):
        faces = np.zeros((2, 256, 256, 3))
        faces[1, 200, 100, 2] = value  # one is enough
        with pytest.raises(ValueError, match=seen):
            meso4.predict(faces)
    for dtype in ("int8", "uint16", "int64", "bool", "complex64"):
        with pytest.raises(ValueError, match=dtype):
            meso4.predict(np.zeros((1, 256, 256, 3), dtype))
    for shape in ((1, 128, 128, 3), (0, 128, 128, 3), (256, 256, 3), (1, 3, 256, 256), ()):
        with pytest.raises(ValueError, match=re.escape(f"not {shape}")):
            meso4.predict(np.zeros(shape, np.uint8))


def test_fit_learns_and_reports_its_own_batch():
    keras.utils.set_random_seed(1)
    classifier = MesoInception4()
    faces = np.zeros((4, 256, 256, 3), np.uint8)
    faces[2:] = 255
    labels = np.array([0, 0, 1, 1])
    before = classifier.get_accuracy(faces, labels)[0]
    losses = [classifier.fit(faces, labels)[0] for _ in range(12)]
    assert min(losses[-3:]) < losses[0]
    classifier.fit(faces, labels)
    # not the running mean over calls that Keras 3 keeps
    again = classifier.get_accuracy(faces, labels)
    assert classifier.get_accuracy(faces, labels) == again
    assert before != again[0]


@pytest.mark.parametrize("channels", [8, 11])
def test_normalization_learns_as_keras_own(channels):
    random = np.random.default_rng(0)
    x, weight = (tf.constant(random.normal(3, 2, (2, 8, 8, channels)), tf.float32) for _ in range(2))
    results = []
    for layer in (BatchNormalization(), keras.layers.BatchNormalization()):
        layer.build(x.shape)
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = layer(x, training=True)
            target = tf.reduce_sum(outputs * weight)
        gradients = tape.gradient(target, [x, *layer.trainable_variables])
        results.append([outputs, *gradients, *layer.non_trainable_variables, layer(x, training=False)])
    for mine, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)
    n = 2 * 8 * 8  # oneDNN's kernel takes 8 channels, and gives the unbiased variance
    unbiased = n / (n - 1) if channels == 8 else 1
    batch_variances = [(moving - 0.99) / 0.01 for moving in (results[0][5], results[1][5])]
    np.testing.assert_allclose(batch_variances[0], batch_variances[1] * unbiased, rtol=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_a_quickened_network_scores_the_same(noise, name):
    plain = MODELS[name]().model
    plain.set_weights([np.random.default_rng(1).uniform(0, 0.2, w.shape) for w in plain.get_weights()])
    quick = quicken(plain, 0.1)
    assert any(isinstance(layer, BatchNormalization) for layer in quick.layers)
    faces = scale_pixels(noise)
    np.testing.assert_allclose(plain.predict_on_batch(faces), quick.predict_on_batch(faces), atol=1e-6)
    plain.set_weights(quick.get_weights())  # as training does to score


@pytest.mark.parametrize("name", MODELS)
def test_save_and_load(tmp_path, noise, name):
    first, second = MODELS[name](), MODELS[name]()
    first.fit(noise, [0, 1, 0, 1])  # an optimiser with state, which is not saved
    first.save(tmp_path / "net.weights.h5")
    first.model.save_weights(tmp_path / "whole.weights.h5")  # here it is
    second.load(tmp_path / "net.weights.h5")
    np.testing.assert_array_equal(first.predict(noise), second.predict(noise))
    third = load_classifier(tmp_path / "whole.weights.h5")
    assert type(third).__name__ == name
    np.testing.assert_array_equal(first.predict(noise), third.predict(noise))
    with pytest.raises(ValueError, match=r"must end in `\.weights\.h5`"):
        first.save(tmp_path / "net.h5")


def test_load_names_file_cause_and_cure(tmp_path):
    path, other = tmp_path / "whole.weights.h5", tmp_path / "other.weights.h5"
    Meso4().save(path)
    whole = path.read_bytes()
    damaged = r"other\.weights\.h5: damaged, or not an HDF5 file: get it again$"
    for content in (whole[: len(whole) // 2], b"", b"\n<!DOCTYPE html><html>"):
        other.write_bytes(content)
        with pytest.raises(ValueError, match=damaged):
            Meso4().load(other)
    with pytest.raises(FileNotFoundError, match=r"nothing\.h5: no such file: .*README"):
        Meso4().load(tmp_path / "nothing.h5")
    with pytest.raises(ValueError, match=r"holds weights of Meso4, not of MesoInception4"):
        MesoInception4().load(path)
    (tmp_path / "whole.h5").write_bytes(whole)
    with pytest.raises(ValueError, match=r"name it \.weights\.h5"):
        Meso4().load(tmp_path / "whole.h5")
    with h5py.File(other, "w") as file:
        file["layers/dense/vars/0"] = np.zeros((3, 4))
    with pytest.raises(ValueError, match="fit none of Meso4, MesoInception4"):
        Meso4().load(other)


@pytest.mark.parametrize("module", ["classifiers", "training.trainer"])
def test_onednn_is_on_before_tensorflow_is_imported(module):
    code = f"import os, sys; sys.modules['tensorflow'] = None\ntry: import {module}\nexcept ImportError: "
    code += "print(os.environ['TF_ENABLE_ONEDNN_OPTS'])"
    environment = {k: v for k, v in os.environ.items() if k != "TF_ENABLE_ONEDNN_OPTS"}
    assert start("-c", code, env=environment).communicate()[0] == "1\n"
