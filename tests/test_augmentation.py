"""What faces go through in training: the authors' augmentation, degradations, draws in pairs."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from PIL import Image

import pipeline
from classifiers import scale_pixels
from pipeline import Item
from training import augmentation, draws


@pytest.fixture(scope="module")
def face():
    return pipeline.load_face(ROOT / "test_images/real/hopper.png", pipeline.View("bilinear"))


def augment(face, **values):
    names = ("rotation", "zoom_x", "zoom_y", "flip", "shift", "brightness", "across", "down")
    changes = tf.constant([[values.get(name, 0) for name in names]], tf.float32)
    return augmentation.augment(tf.constant(face[None]), changes, values.get("side", 256)).numpy()[0]


def test_augmentations_do_what_the_authors_did(face):
    plain = scale_pixels(face[None])[0]
    np.testing.assert_array_equal(augment(face), plain)
    np.testing.assert_array_equal(augment(face, flip=-1), plain[:, ::-1])
    np.testing.assert_allclose(augment(face, brightness=0.5), np.clip(plain * 1.1, 0, 1), atol=1e-6)
    np.testing.assert_allclose(augment(face, shift=-1), np.clip(plain - 30 / 255, 0, 1), atol=1e-6)
    assert augment(face, shift=1, brightness=1).max() == 1.0


def test_of_views_only_flips_are_kept(face):
    plain = scale_pixels(face[None])[0]
    for seed in range(3):
        changes = np.random.default_rng(seed).uniform(-1, 1, (1, 22)).astype(np.float32)
        kept = augmentation.keep_flips(changes)
        view = augmentation.augment(tf.constant(face[None]), tf.constant(kept)).numpy()[0]
        np.testing.assert_array_equal(view, plain[:, ::-1] if changes[0, 3] < 0 else plain)


def test_a_window_is_a_part_of_the_augmented_face(face):
    changes = {"rotation": 0.7, "zoom_x": -0.4, "flip": -1, "shift": 0.2}
    whole = augment(face, **changes)
    for across, down, left, top in ((-1, -1, 0, 0), (1, 1, 192, 192), (0, 0.5, 96, 144)):
        window = augment(face, **changes, across=across, down=down, side=64)
        np.testing.assert_allclose(window, whole[top : top + 64, left : left + 64], atol=1e-5)


def test_rotation_is_fifteen_degrees_and_zoom_a_fifth(face):
    image = Image.fromarray(face)
    turned = np.asarray(image.rotate(15, Image.Resampling.BILINEAR)) / 255
    inner = np.s_[60:196, 60:196]
    assert np.abs(augment(face, rotation=1)[inner] - turned[inner]).mean() < 0.01
    assert np.abs(augment(face, rotation=-1)[inner] - turned[inner]).mean() > 0.05
    wide = image.resize((round(256 / 0.8), 256), Image.Resampling.BILINEAR)
    zoomed = np.asarray(wide.crop((32, 0, 288, 256))) / 255
    assert np.abs(augment(face, zoom_x=-1) - zoomed).mean() < 0.01
    smaller = augment(face, zoom_y=1)
    np.testing.assert_allclose(smaller[0], smaller[10], atol=1e-6)  # the edge is repeated


def test_augmentation_is_tensorflows_own_projective_transform(face):
    changes = np.random.default_rng(0).uniform(-1, 1, (8, 8)).astype(np.float32)
    changes[:, 4:] = 0
    angle = np.radians(15) * changes[:, 0]
    zoom_x, zoom_y = (1 + 0.2 * changes[:, 1]) * np.where(changes[:, 3] < 0, -1, 1), 1 + 0.2 * changes[:, 2]
    a, b = np.cos(angle) * zoom_x, -np.sin(angle) * zoom_y
    c, d = np.sin(angle) * zoom_x, np.cos(angle) * zoom_y
    zero = np.zeros_like(a)
    rows = (a, b, 127.5 * (1 - a - b), c, d, 127.5 * (1 - c - d), zero, zero)
    batch = np.stack([face] * 8)
    expected = tf.raw_ops.ImageProjectiveTransformV3(
        images=scale_pixels(batch), transforms=np.stack(rows, axis=1).astype(np.float32),
        output_shape=[256, 256], fill_value=0.0, interpolation="BILINEAR", fill_mode="NEAREST",
    )  # fmt: skip
    np.testing.assert_allclose(
        augmentation.augment(tf.constant(batch), tf.constant(changes)), expected, atol=1e-3
    )


# --- degradations, draws ------------------------------------------------------------------------------


def make_face(side=256):
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)


def name_faces(*names):
    """Return Items of names `<label>/<dataset>-<video>-<frame>`."""
    found = []
    for name in names:
        label, _, stem = name.partition("/")
        found.append(Item(Path(f"{name}.png"), label, stem.partition("-")[0], stem.rpartition("-")[0]))
    return found


def test_faces_are_degraded_alike_by_the_same_numbers():
    face = make_face()
    random = np.random.default_rng(1)
    changed = 0
    for numbers in random.uniform(-1, 1, (50, 13)).astype(np.float32):
        once, twice = (augmentation.degrade(face, numbers) for _ in range(2))
        assert once.shape == face.shape
        assert once.dtype == np.uint8
        np.testing.assert_array_equal(once, twice)
        changed += (once != face).any()
    assert 35 < changed < 50  # some stay as they are


def test_h264_loses_more_the_higher_the_rate_factor():
    face = pipeline.load_face(ROOT / "test_images/real/hopper.png", pipeline.View("bilinear"))
    losses = [np.abs(augmentation.film(face, rate).astype(int) - face).mean() for rate in (0, 20, 32, 44)]
    assert losses == sorted(losses)
    assert losses[0] < 2
    assert 6 < losses[3] < 20


def test_noise_does_not_darken():
    numbers = np.full(13, 1, np.float32)  # nothing happens
    numbers[8] = -1  # but noise
    grey = np.full((256, 256, 3), 128, np.uint8)
    noisy = augmentation.degrade(grey, numbers)
    assert noisy.std() > 5
    assert noisy.mean() == pytest.approx(128, abs=0.1)


def test_strength_0_leaves_faces_and_crops_as_they_are():
    face, numbers = make_face(), np.full(16, -1, np.float32)
    np.testing.assert_array_equal(augmentation.degrade(face, numbers[3:], 0), face)
    zoom, right, down = augmentation.move(numbers[None], 0)
    assert (zoom, right, down) == ([1], [0], [0])


def test_numbers_at_their_ends():
    for end in (-1, 1):
        augmentation.degrade(make_face(), np.full(13, end, np.float32), 3)
    zoom, right, _ = augmentation.move(np.array([[-1, -1, -1], [1, 1, 1]], np.float32))
    np.testing.assert_allclose(zoom, [1 / 1.15, 1.15], rtol=1e-6)
    np.testing.assert_allclose(right, [-0.06, 0.06])


def test_names_tell_of_forgeries():
    images = name_faces("df/ff-face2face_055_147-1", "df/ff-055-1", "real/ff-a_b-1", "df/ff-faceswap_x-1")
    found = [draws.split_video(image) for image in images]
    assert found == [("face2face", "ff-055"), ("", ""), ("", ""), ("faceswap", "ff-x")]


def test_draws_are_even_over_sets_classes_kinds_and_videos():
    images = name_faces(
        "real/a-1-1", "real/a-1-2", "real/a-2-1", "df/a-x_1-1", "df/a-y_1-1", "df/a-y_2-1", "real/b-1-1"
    )
    expected = [1 / 16, 1 / 16, 1 / 8, 1 / 8, 1 / 16, 1 / 16, 1 / 2]
    np.testing.assert_allclose(draws.weigh_faces(images), expected)


def test_shares_say_how_often_a_data_set_is_drawn():
    images = name_faces("real/a-1-1", "df/a-x_1-1", "real/b-1-1", "df/b-x_1-1", "real/c-1-1")
    np.testing.assert_allclose(
        draws.weigh_faces(images, {"a": 0.5, "b": 2.0}), np.array([0.25, 0.25, 1, 1, 1]) / 3.5
    )
    order, _ = draws.draw_pairs(images, 500, 4, np.random.default_rng(0), {"c": 0.0, "b": 3.0})
    drawn = np.bincount(order.ravel(), minlength=5) / order.size
    np.testing.assert_allclose(drawn, [1 / 8, 1 / 8, 3 / 8, 3 / 8, 0], atol=0.02)


def test_real_faces_without_forgeries_are_drawn_as_often_as_the_others():
    images = name_faces("real/a-0-1", "real/a-1-1", "real/a-2-1", "df/a-x_0-1", "df/a-x_1-1", "df/a-3-1")
    order, _ = draws.draw_pairs(images, 2000, 12, np.random.default_rng(0))
    drawn = np.bincount(order.ravel(), minlength=6) / order.size
    np.testing.assert_allclose(drawn, [1 / 6, 1 / 6, 1 / 6, 1 / 8, 1 / 8, 1 / 4], atol=0.015)


def test_a_forged_face_finds_its_original_or_the_nearest_frame_of_it():
    images = name_faces(
        "real/a-1-f7",
        "real/a-1-f9",
        "df/a-x_1-f9",
        "df/a-x_1_2-f6",
        "df/a-x_3-f9",
        "df/b-x_1-f9",
        "df/a-1-f9",
    )
    assert draws.pair_faces(images).tolist() == [-1, -1, 1, 0, -1, -1, -1]


def test_pairs_stand_in_one_batch_with_the_same_numbers():
    images = name_faces(
        *(f"real/a-{v}-1" for v in range(20)), *(f"df/a-x_{v}-1" for v in range(20)), "real/b-1-1", "df/b-2-1"
    )
    order, places = draws.draw_pairs(images, 40, 24, np.random.default_rng(0))
    partners = draws.pair_faces(images)
    for faces, own in zip(order, places, strict=True):
        for place, index in enumerate(faces[:-1]):
            if partners[index] >= 0:
                assert faces[place + 1] == partners[index]
                assert own[place + 1] == place
    datasets = np.array([image.dataset for image in images])[order]
    labels = np.array([image.label for image in images])[order]
    for dataset in "ab":  # sets and classes evenly
        for label in ("real", "df"):
            assert ((datasets == dataset) & (labels == label)).mean() == pytest.approx(0.25, abs=0.04)
