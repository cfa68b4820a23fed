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
from training import augmentation, data
from training.recipe import Recipe


@pytest.fixture(scope="module")
def face():
    return pipeline.load_face(ROOT / "test_images/real/hopper.png", pipeline.View("bilinear"))


def augment(face, strength=0, **values):
    """Change a face by the numbers given for some changes, 0 for the others."""
    numbers = [[np.resize(values.get(name, 0), 2) for name in augmentation.CHANGES]]
    numbers = tf.constant(numbers, tf.float32)
    return augmentation.augment(tf.constant(face[None]), numbers, strength).numpy()[0]


def test_augmentations_do_what_the_authors_did(face):
    plain = scale_pixels(face[None])[0]
    np.testing.assert_array_equal(augment(face), plain)
    np.testing.assert_array_equal(augment(face, flip=-1), plain[:, ::-1])
    np.testing.assert_allclose(augment(face, brightness=0.5), np.clip(plain * 1.1, 0, 1), atol=1e-6)
    np.testing.assert_allclose(augment(face, channels=-1), np.clip(plain - 30 / 255, 0, 1), atol=1e-6)
    assert augment(face, channels=1, brightness=1).max() == 1.0


def test_augmentation_is_tensorflows_own_projective_transform(face):
    for turn, across, down, flip in np.random.default_rng(0).uniform(-1, 1, (8, 4)):
        angle = np.radians(15) * turn
        zoom_x, zoom_y = (1 + 0.2 * across) * (-1 if flip < 0 else 1), 1 + 0.2 * down
        a, b = np.cos(angle) * zoom_x, -np.sin(angle) * zoom_y
        c, d = np.sin(angle) * zoom_x, np.cos(angle) * zoom_y
        row = (a, b, 127.5 * (1 - a - b), c, d, 127.5 * (1 - c - d), 0, 0)
        expected = tf.raw_ops.ImageProjectiveTransformV3(
            images=scale_pixels(face[None]), transforms=np.array([row], np.float32),
            output_shape=[256, 256], fill_value=0.0, interpolation="BILINEAR", fill_mode="NEAREST",
        )  # fmt: skip
        found = augment(face, rotate=turn, zoom=(across, down), flip=flip)
        np.testing.assert_allclose(found, expected[0], atol=1e-3)


def test_a_crop_is_moved_by_its_strength(face):
    np.testing.assert_array_equal(augment(face, margin=1, shift=(1, -1)), scale_pixels(face[None])[0])
    moved = augment(face, strength=1, shift=(1, 0))
    left = face[:, 15:] / 255  # 0.06 of 256 pixels
    assert np.abs(moved[:, :241] - left).mean() < 0.02
    tighter = augment(face, strength=1, margin=-1)  # by 1 / 1.15
    edge = round(128 - 128 / 1.15)
    inner = Image.fromarray(face[edge:-edge, edge:-edge]).resize((256, 256), Image.Resampling.BILINEAR)
    assert np.abs(tighter - np.asarray(inner) / 255).mean() < 0.01


def test_a_seed_decides_all_that_happens_to_a_face(face, noise):
    seeds = np.arange(40)
    faces = np.stack([noise[0]] * 40)
    once, twice = (augmentation.degrade(faces, seeds, 1) for _ in range(2))
    np.testing.assert_array_equal(once, twice)
    changed = (once != faces).any(axis=(1, 2, 3))
    assert 28 < changed.sum() < 40  # some stay as they are
    np.testing.assert_array_equal(augmentation.degrade(faces, seeds, 0), np.stack([noise[0]] * 40))
    numbers = augmentation.draw_numbers(seeds)
    assert numbers.shape == (40, 7, 2)
    assert -1 < numbers.min() < -0.99
    assert 0.99 < numbers.max() < 1
    np.testing.assert_array_equal(numbers[3:5], augmentation.draw_numbers(seeds[3:5]))
    # two faces of one seed are changed alike, whatever the others
    for seed in range(8):
        first, second, _ = augmentation.degrade(np.stack([face, face, noise[0]]), [seed, seed, seed + 8], 1)
        np.testing.assert_array_equal(first, second)


def test_a_new_degradation_is_one_entry_and_alters_no_other(face, monkeypatch):
    """Each has random numbers of its own."""
    faces, seeds = np.stack([face] * 20), np.arange(20)
    before = augmentation.degrade(faces, seeds, 1)

    def darken(image, random, strength):  # noqa: ARG001
        return image.point(lambda value: value // 2)

    monkeypatch.setattr(augmentation, "DEGRADATIONS", [*augmentation.DEGRADATIONS, (darken, 0.5)])
    after = augmentation.degrade(faces, seeds, 1)
    same = (before == after).all(axis=(1, 2, 3))
    assert 4 < same.sum() < 16
    np.testing.assert_array_equal(after[~same], before[~same] // 2)


def test_h264_loses_more_the_higher_the_quantizer(face, monkeypatch):
    losses, random = [], np.random.default_rng(0)
    for quantizer in (0, 22, 34, 48):
        monkeypatch.setattr(augmentation, "QUANTIZERS", (quantizer, quantizer))
        filmed = np.asarray(augmentation.film(Image.fromarray(face), random, 1.0))
        losses.append(np.abs(filmed.astype(int) - face).mean())
    assert losses == sorted(losses)
    assert losses[0] < 2
    assert 6 < losses[3] < 20


@pytest.mark.parametrize("change", [change for change, _ in augmentation.DEGRADATIONS])
def test_degradations_keep_size_and_brightness(face, change):
    changed = np.asarray(change(Image.fromarray(face), np.random.default_rng(1), 1.0))
    assert (changed.shape, changed.dtype) == (face.shape, np.uint8)
    assert np.abs(changed.astype(int) - face).mean() > 0.2
    assert changed.mean() == pytest.approx(face.mean(), abs=1.0)


def name_faces(*names):
    """Return Items of names `<label>/<dataset>/<video>/<frame>`."""
    return [Item(Path(f"{name}.png"), name, *name.split("/")[:3]) for name in names]


def draw_pairs(items, steps, batch_size, shares=None):
    return data.draw_pairs(items, np.arange(steps * batch_size).reshape(steps, -1), shares or {},
                            np.random.default_rng(0))  # fmt: skip


def count_draws(items, order):
    return np.bincount(order.ravel(), minlength=len(items)) / order.size


def test_draws_are_even_over_sets_classes_kinds_and_videos_or_as_shares_say():
    names = "real/a/1/1 real/a/1/2 real/a/2/1 df/a/x_1/1 df/a/y_1/1 df/a/y_2/1 real/b/1/1"
    items = name_faces(*names.split())
    expected = np.array([1 / 16, 1 / 16, 1 / 8, 1 / 8, 1 / 16, 1 / 16, 1 / 2])
    np.testing.assert_allclose(data.weigh_faces(items, {}), expected)
    order, _ = data.draw_epoch(items * 300, Recipe(balance={}, batch_size=10), 0)
    np.testing.assert_allclose(count_draws(items, order % 7), expected, atol=0.04)
    items = name_faces("real/a/1/1", "df/a/x_1/1", "real/b/1/1", "df/b/x_1/1", "real/c/1/1")
    expected = np.array([0.25, 0.25, 1, 1, 1]) / 3.5
    np.testing.assert_allclose(data.weigh_faces(items, {"a": 0.5, "b": 2.0}), expected)
    order, _ = draw_pairs(items, 500, 4, {"c": 0.0, "b": 3.0})
    np.testing.assert_allclose(count_draws(items, order), [1 / 8, 1 / 8, 3 / 8, 3 / 8, 0], atol=0.02)


def test_pairs_leave_real_faces_without_forgeries_their_chance():
    some = name_faces("real/a/0/1", "real/a/1/1", "real/a/2/1", "df/a/x_0/1", "df/a/x_1/1", "df/a/3/1")
    order, _ = draw_pairs(some, 2000, 12)
    np.testing.assert_allclose(count_draws(some, order), [1 / 6] * 3 + [1 / 8] * 2 + [1 / 4], atol=0.015)
    whole = name_faces("df/a/x_0/1", "df/a/x_1/1", *(f"real/a/{video}/1" for video in range(10)))
    order, _ = draw_pairs(whole, 2000, 12)  # each forged face has its original, most real ones no forgery
    np.testing.assert_allclose(count_draws(whole, order), [1 / 4] * 2 + [1 / 20] * 10, atol=0.015)


def test_a_forged_face_finds_its_original_or_the_nearest_frame_of_it():
    names = "real/a/1/f7 real/a/1/f9 df/a/x_1/f9 df/a/x_1_2/f6 df/a/x_3/f9 df/b/x_1/f9 df/a/1/f9"
    items = name_faces(*names.split())
    assert data.pair_faces(items).tolist() == [-1, -1, 1, 0, -1, -1, -1]


def test_pairs_stand_in_one_batch_with_the_same_seed():
    items = name_faces(*(f"real/a/{v}/1" for v in range(20)), *(f"df/a/x_{v}/1" for v in range(20)),
                       "real/b/1/1", "df/b/2/1")  # fmt: skip
    order, seeds = draw_pairs(items, 40, 24)
    partners = data.pair_faces(items)
    for faces, own in zip(order, seeds, strict=True):
        for place, index in enumerate(faces[:-1]):
            if partners[index] >= 0:
                assert faces[place + 1] == partners[index]
                assert own[place + 1] == own[place]
    datasets = np.array([item.dataset for item in items])[order]
    labels = np.array([item.label for item in items])[order]
    for dataset in "ab":  # sets and classes evenly
        for label in ("real", "df"):
            assert ((datasets == dataset) & (labels == label)).mean() == pytest.approx(0.25, abs=0.04)


def test_an_epoch_is_drawn_from_seed_and_number_alone():
    items = name_faces(*(f"real/a/{v}/1" for v in range(18)), *(f"df/a/x_{v}/1" for v in range(18)))
    for recipe in (Recipe(batch_size=8), Recipe(batch_size=8, pairs=True)):
        order, seeds = data.draw_epoch(items, recipe, 0)
        assert order.shape == seeds.shape == (5, 8)
        if not recipe.pairs:
            assert sorted(set(order.ravel())) == list(range(36))  # every face, and four again
        for found, again in zip((order, seeds), data.draw_epoch(items, recipe, 0), strict=True):
            np.testing.assert_array_equal(found, again)
        assert (order != data.draw_epoch(items, recipe, 1)[0]).any()
        assert (order != data.draw_epoch(items, recipe._replace(seed=2), 0)[0]).any()
