"""What faces go through in training: the authors' augmentation, degradations, draws in pairs."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from PIL import Image

import pipeline
from classifiers import scale_pixels
from training import augmentation


@pytest.fixture(scope="module")
def portrait():
    return pipeline.load_face(ROOT / "test_images/real/hopper.png", "bilinear")


def augment(portrait, **values):
    names = ("rotation", "zoom_x", "zoom_y", "flip", "shift", "brightness", "across", "down")
    changes = tf.constant([[values.get(name, 0) for name in names]], tf.float32)
    return augmentation.augment(tf.constant(portrait[None]), changes, values.get("side", 256)).numpy()[0]


def test_augmentations_do_what_the_authors_did(portrait):
    plain = scale_pixels(portrait[None])[0]
    np.testing.assert_array_equal(augment(portrait), plain)
    np.testing.assert_array_equal(augment(portrait, flip=-1), plain[:, ::-1])
    np.testing.assert_allclose(augment(portrait, brightness=0.5), np.clip(plain * 1.1, 0, 1), atol=1e-6)
    np.testing.assert_allclose(augment(portrait, shift=-1), np.clip(plain - 30 / 255, 0, 1), atol=1e-6)
    assert augment(portrait, shift=1, brightness=1).max() == 1.0


def test_a_window_is_a_part_of_the_augmented_face(portrait):
    changes = {"rotation": 0.7, "zoom_x": -0.4, "flip": -1, "shift": 0.2}
    whole = augment(portrait, **changes)
    for across, down, left, top in ((-1, -1, 0, 0), (1, 1, 192, 192), (0, 0.5, 96, 144)):
        window = augment(portrait, **changes, across=across, down=down, side=64)
        np.testing.assert_allclose(window, whole[top : top + 64, left : left + 64], atol=1e-5)


def test_rotation_is_fifteen_degrees_and_zoom_a_fifth(portrait):
    image = Image.fromarray(portrait)
    turned = np.asarray(image.rotate(15, Image.Resampling.BILINEAR)) / 255
    inner = np.s_[60:196, 60:196]
    assert np.abs(augment(portrait, rotation=1)[inner] - turned[inner]).mean() < 0.01
    assert np.abs(augment(portrait, rotation=-1)[inner] - turned[inner]).mean() > 0.05
    wide = image.resize((round(256 / 0.8), 256), Image.Resampling.BILINEAR)
    zoomed = np.asarray(wide.crop((32, 0, 288, 256))) / 255
    assert np.abs(augment(portrait, zoom_x=-1) - zoomed).mean() < 0.01
    smaller = augment(portrait, zoom_y=1)
    np.testing.assert_allclose(smaller[0], smaller[10], atol=1e-6)  # the edge is repeated


def test_augmentation_is_tensorflows_own_projective_transform(portrait):
    changes = np.random.default_rng(0).uniform(-1, 1, (8, 8)).astype(np.float32)
    changes[:, 4:] = 0
    angle = np.radians(15) * changes[:, 0]
    zoom_x, zoom_y = (1 + 0.2 * changes[:, 1]) * np.where(changes[:, 3] < 0, -1, 1), 1 + 0.2 * changes[:, 2]
    a, b = np.cos(angle) * zoom_x, -np.sin(angle) * zoom_y
    c, d = np.sin(angle) * zoom_x, np.cos(angle) * zoom_y
    zero = np.zeros_like(a)
    rows = (a, b, 127.5 * (1 - a - b), c, d, 127.5 * (1 - c - d), zero, zero)
    batch = np.stack([portrait] * 8)
    expected = tf.raw_ops.ImageProjectiveTransformV3(
        images=scale_pixels(batch), transforms=np.stack(rows, axis=1).astype(np.float32),
        output_shape=[256, 256], fill_value=0.0, interpolation="BILINEAR", fill_mode="NEAREST",
    )  # fmt: skip
    np.testing.assert_allclose(
        augmentation.augment(tf.constant(batch), tf.constant(changes)), expected, atol=1e-3
    )
