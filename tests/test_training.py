"""Training: face_folder, augmentation, recipe, and the script through kills, faults and several processes."""

import csv
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, run_script
from PIL import Image

import pipeline
from classifiers import load_classifier, scale_pixels
from training import data, trainer
from weights import find_weights
from weights.metrics import choose_threshold
from weights.scores import score_crops

SCRIPT = "training/df_CNN.py"
QUICK = ("--epochs", "3", "--batch-size", "8", "--seed", "7", "--balance")


def write_faces(folder, videos, frames, first_video=0):
    """Write faces that are told apart easily: "real" noise, "df" the same blurred; 60 to 90 pixels."""
    random = np.random.default_rng(first_video)
    for label in ("df", "real"):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for video in range(first_video, first_video + videos):
            for frame in range(frames):
                side = int(random.integers(60, 90))
                pixels = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
                image = Image.fromarray(pixels)
                if label == "df":
                    image = image.resize((8, 8)).resize((side, side), Image.Resampling.BICUBIC)
                image.save(folder / label / f"set{video % 2}-{label}{video}-{frame}.png")


@pytest.fixture(scope="module")
def face_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_faces(folder / "training", videos=6, frames=3)
    write_faces(folder / "validation", videos=4, frames=2, first_video=10)
    return folder


@pytest.fixture(scope="module")
def trained(face_folder, tmp_path_factory):
    """Output folder of a short training, and what it printed."""
    output = tmp_path_factory.mktemp("trained")
    return output, run_script(SCRIPT, "--data", face_folder, "--output", output, *QUICK)


def read_history(output):
    with (output / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# --- data -----------------------------------------------------------------------------------------


def test_aliases_are_told_and_videos_come_from_folders_or_names(tmp_path):
    for path in ("Fake/clip1/1.png", "fake/a-b-1.png", "original/x.png", "real/.hidden/y.png", "real/y.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    images, aliases = data.list_images(tmp_path)
    assert aliases == {"Fake": "df", "fake": "df", "original": "real"}
    found = {(i.label, i.dataset, i.video.replace(str(tmp_path), "")) for i in images}
    assert found == {
        ("df", "", "clip1"), ("df", "a", "a-b"), ("real", "", "/original/x.png"), ("real", "", "/real/y.png")
    }  # fmt: skip


def test_stray_folders_and_empty_classes_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="training: no such folder"):
        data.list_images(tmp_path / "training")
    write_faces(tmp_path, videos=1, frames=1)
    (tmp_path / "masks").mkdir()
    (tmp_path / "loose.png").touch()
    with pytest.raises(
        ValueError, match=r"holds loose\.png, masks beside the classes: wanted .* df and real"
    ):
        data.list_images(tmp_path)
    (tmp_path / "masks").rmdir()
    (tmp_path / "loose.png").unlink()
    for path in (tmp_path / "real").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"no image of class real, wanted some in .*/real"):
        data.list_images(tmp_path)


def test_leaks_are_videos_not_file_names(tmp_path):
    for split in ("training", "validation"):
        for name in ("df/clip/1.png", "df/0001.png", f"real/{split}/1.png", "real/s-v-1.png"):
            (tmp_path / split / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / split / name).touch()
    splits = [data.list_images(tmp_path / split)[0] for split in ("training", "validation")]
    assert data.find_leaks(*splits) == ["clip", "s-v"]


def test_split_by_video_takes_whole_videos_of_every_source(face_folder):
    images, _ = data.list_images(face_folder / "training")
    training, validation = data.split_by_video(images, 0.3, seed=1)
    assert len(training) + len(validation) == len(images)
    assert not data.find_leaks(training, validation)
    counts = data.count_faces(validation)
    assert counts == {
        f"set{s} {label}": {"images": 3, "videos": 1} for s in (0, 1) for label in ("df", "real")
    }
    assert (training, validation) == data.split_by_video(images, 0.3, seed=1)
    with pytest.raises(ValueError, match="too few videos"):
        data.split_by_video([i for i in images if i.video.endswith("0")], 0.3, seed=1)


def test_draws_are_even_over_classes_sources_and_videos():
    def image(label, dataset, video):
        return pipeline.Item(pipeline.Path("x"), label, dataset, video)

    images = [image("df", "a", "1")] * 3 + [
        image("df", "a", "2"),
        image("df", "b", "3"),
        image("real", "a", "4"),
    ]
    np.testing.assert_allclose(data.weigh_faces(images), [1 / 24] * 3 + [1 / 8, 1 / 4, 1 / 2])


def test_an_epoch_is_drawn_from_seed_and_number_alone(face_folder):
    images, _ = data.list_images(face_folder / "training")
    order, changes = data.draw_epoch(images, 8, False, 1, 0)
    assert order.shape == (5, 8)
    assert changes.shape == (5, 8, 8)
    assert sorted(set(order.ravel())) == list(range(36))  # every face, and four again
    again = data.draw_epoch(images, 8, False, 1, 0)
    np.testing.assert_array_equal(order, again[0])
    np.testing.assert_array_equal(changes, again[1])
    assert (order != data.draw_epoch(images, 8, False, 1, 1)[0]).any()
    assert (order != data.draw_epoch(images, 8, False, 2, 0)[0]).any()


def test_training_sees_the_pixels_that_scoring_sees(face_folder):
    """One file through both ways to the network, bit for bit."""
    images, _ = data.list_images(face_folder / "training")
    for resample in ("nearest", "bilinear"):
        face_set, failed = data.load_faces(images, resample, face_folder)
        assert not failed
        seen = []
        list(score_crops(images, lambda x: seen.append(x) or np.zeros(len(x)), resample, 0.5, 10))  # noqa: B023
        np.testing.assert_array_equal(face_set.faces, np.concatenate(seen))
        order = np.arange(36).reshape(3, 12)
        batches = data.make_batches(face_set, order, np.zeros((3, 12, 8), np.float32))
        for row, (batch, labels) in zip(order, batches, strict=True):
            np.testing.assert_array_equal(batch, scale_pixels(face_set.faces[row]))
            np.testing.assert_array_equal(labels[:, 0], [images[i].label == "real" for i in row])


def test_each_replica_gets_its_part_of_every_batch(face_folder):
    images, _ = data.list_images(face_folder / "training")
    face_set, _ = data.load_faces(images, "nearest", face_folder)
    order = np.arange(36).reshape(3, 12)
    changes = np.zeros((3, 12, 8), np.float32)
    parts = order.reshape(3, 4, 3)  # steps, replicas, faces
    for mine, rows in ((slice(1, 2), parts[:, 1]), (slice(2, 4), parts[:, 2:].reshape(6, 3))):
        batches = list(data.make_batches(face_set, order, changes, 4, mine))
        for row, (batch, _) in zip(rows, batches, strict=True):
            np.testing.assert_array_equal(batch, scale_pixels(face_set.faces[row]))


def test_faces_that_exceed_memory_lie_on_disk(face_folder, monkeypatch, tmp_path):
    images, _ = data.list_images(face_folder / "training")
    in_memory, _ = data.load_faces(images, "nearest", tmp_path)
    monkeypatch.setattr(face_folder, "IN_MEMORY", 0)
    on_disk, _ = data.load_faces(images, "nearest", tmp_path)
    assert isinstance(on_disk.faces, np.memmap)
    np.testing.assert_array_equal(in_memory.faces, on_disk.faces)
    assert list(tmp_path.iterdir()) == []  # nothing a kill could leave behind


# --- augmentation ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def portrait():
    return pipeline.load_face(ROOT / "test_images/real/hopper.png", "bilinear")


def augment(portrait, **values):
    names = ("rotation", "zoom_x", "zoom_y", "flip", "shift", "brightness", "across", "down")
    changes = tf.constant([[values.get(name, 0) for name in names]], tf.float32)
    return data.augment(tf.constant(portrait[None]), changes, values.get("side", 256)).numpy()[0]


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
    np.testing.assert_allclose(data.augment(tf.constant(batch), tf.constant(changes)), expected, atol=1e-3)


# --- recipe ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("paper", {0: 1e-3, 999: 1e-3, 1001: 1e-4, 2001: 1e-5, 3001: 1e-6, 3999: 1e-6}),
        ("cosine", {0: 1e-3, 1000: 1e-3 * (1 + np.cos(np.pi / 4)) / 2, 2000: 5e-4, 4000: 0}),
    ],
)
def test_learning_rate_schedules(schedule, rates):
    rate = trainer.make_schedule(trainer.Recipe(schedule=schedule))
    for step, value in rates.items():
        assert float(rate(step)) == pytest.approx(value, rel=1e-4, abs=1e-12)


def test_plateau_divides_by_ten_down_to_a_millionth():
    run = trainer.Trainer(trainer.Recipe(schedule="plateau", learning_rate=3e-5), trainer.choose_strategy())
    rates = [run.learning_rate]
    for _ in range(2):
        run.lower_rate()
        rates.append(run.learning_rate)
    np.testing.assert_allclose(rates, [3e-5, 3e-6, 1e-6], rtol=1e-5)


def test_defaults_are_the_papers():
    recipe = trainer.Recipe()
    assert (recipe.steps, recipe.batch_size, recipe.learning_rate, recipe.loss) == (4000, 75, 1e-3, "mse")
    assert recipe.schedule == "paper"
    assert recipe.resample == "nearest"


@pytest.mark.parametrize(("name", "kept"), [("Meso4", 224 + 16 + 1608 + 16), ("MesoInception4", None)])
def test_frozen_blocks_keep_their_weights(face_folder, name, kept):
    images, _ = data.list_images(face_folder / "training")
    face_set, _ = data.load_faces(images, "nearest", face_folder)
    run = trainer.Trainer(
        trainer.Recipe(model=name, steps=3, batch_size=8, freeze=2), trainer.choose_strategy()
    )
    total = sum(np.prod(w.shape) for w in run.scorer.model.trainable_weights)
    trainable = sum(np.prod(w.shape) for w in run.model.trainable_weights)
    assert kept is None or total - trainable == kept
    before = [w.numpy() for w in run.model.weights]
    run.train_epoch(face_set, 0)
    changed = [(w.numpy() != old).any() for w, old in zip(run.model.weights, before, strict=True)]
    frozen = changed.index(True)
    assert frozen == {"Meso4": 12, "MesoInception4": 36}[name]
    assert all(changed[frozen:])
    with pytest.raises(ValueError, match="has 4 blocks"):
        trainer.freeze_blocks(run.model, 5)


def test_persons_of_a_video_are_one_video(tmp_path):
    for person in ("person1", "person2"):
        for label in ("df", "real"):
            folder = tmp_path / label / "clip1" / person
            folder.mkdir(parents=True)
            Image.new("RGB", (64, 64)).save(folder / "clip1-000003.png")
    images, _ = data.list_images(tmp_path)
    assert {image.video for image in images} == {"clip1"}


def test_blocks_are_imitated_and_the_head_is_taken_over():
    teacher = load_classifier(ROOT / "weights/Meso4_DF")
    images = pipeline.find_images([ROOT / "test_images"])
    face_set, _ = data.load_faces(images * 16, "bilinear", ".")
    recipe = trainer.Recipe("MesoInception4", steps=200, batch_size=8, learning_rate=3e-3,
                            imitate=str(ROOT / "weights/Meso4_DF.weights.h5"))  # fmt: skip
    run = trainer.Trainer(recipe, trainer.choose_strategy())
    losses, explained = zip(*(run.train_epoch(face_set, epoch) for epoch in range(12)), strict=True)
    assert losses[-1] < losses[0] / 2
    assert explained[-1] > 0.6 > explained[0]
    heads = (trainer.list_head(model) for model in (run.model, teacher.model))
    for layer, taught in zip(*heads, strict=True):
        for weights, wanted in zip(layer.get_weights(), taught.get_weights(), strict=True):
            np.testing.assert_array_equal(weights, wanted)
    # learnt on windows, it holds on whole faces
    whole = scale_pixels(face_set.faces[: len(images)])
    # by the batch's own statistics: the moving ones need longer
    found = trainer.cut_blocks(run.model, 3)(whole, training=True).numpy()
    wanted = trainer.cut_blocks(teacher.model, 3)(whole, training=False).numpy()
    assert 1 - np.mean((found - wanted) ** 2) / wanted.var() > 0.5


# --- the script -----------------------------------------------------------------------------------


def test_training_writes_all_that_it_promises(trained):
    output, done = trained
    assert done.stderr == ""
    assert "training: 36 images: set0 df 9 (3 videos), set0 real 9 (3 videos)" in done.stdout
    epochs = re.findall(
        r"^epoch (\d)/3: loss [\d.]+, accuracy .* AUC [\d.]+.* images/s$", done.stdout, re.MULTILINE
    )
    assert epochs == ["1", "2", "3"]
    assert {p.name for p in output.iterdir()} == {
        "Meso4.weights.h5", "Meso4.tflite", "Meso4.json", "history.csv", "curves.png", "evaluation.png",
        "checkpoint-00002.npz", "checkpoint-00003.npz",
    }  # fmt: skip
    history = read_history(output)
    assert [row["step"] for row in history] == ["5", "10", "15"]
    best = max(history, key=lambda row: (float(row["validation_auc"]), -int(row["epoch"])))
    card = json.loads((output / "Meso4.json").read_text())
    assert card["best_epoch"] == int(best["epoch"])
    assert card["validation"]["mean"]["image"]["auc"] == pytest.approx(float(best["validation_auc"]))
    assert card["validation"]["set1"]["video"]["count"] == 4
    assert card["trained_on"]["set1 df"] == {"images": 9, "videos": 3}
    assert card["recipe"]["seed"] == 7
    assert card["recipe"]["balance"] is True
    assert "--seed 7" in card["command"]
    assert card["versions"]["keras"] == keras.__version__
    for name in ("curves.png", "evaluation.png"):
        assert Image.open(output / name).size[0] > 800


def test_trained_weights_score(face_folder, trained):
    output, _ = trained
    done = run_script("deepfakes_images.py", face_folder / "validation", "--weights", output / "Meso4")
    assert "Accuracy per image" in done.stdout
    found = json.loads((output / "Meso4.json").read_text())["validation"]["all"]["image"]
    assert f"AUC {found['auc']:.3f}" in done.stdout


def test_evaluate_alone_repeats_the_cards_figures(face_folder, trained, tmp_path):
    output, training = trained
    done = run_script(
        SCRIPT,
        "--evaluate",
        "--weights",
        output / "Meso4.weights.h5",
        "--data",
        face_folder,
        "--output",
        tmp_path,
    )
    table = training.stdout[training.stdout.index("dataset ") : training.stdout.index("A score is")]
    assert table in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["evaluation-Meso4.png"]


def test_it_learns(face_folder):
    images, _ = data.list_images(face_folder / "training")
    face_set, _ = data.load_faces(images, "nearest", face_folder)
    validation, _ = data.load_faces(data.list_images(face_folder / "validation")[0], "nearest", face_folder)
    run = trainer.Trainer(
        trainer.Recipe(steps=40, batch_size=8, schedule="cosine"), trainer.choose_strategy()
    )
    losses = [run.train_epoch(face_set, epoch)[0] for epoch in range(8)]
    assert losses[-1] < losses[0] / 2
    assert trainer.measure(validation, run.score(validation), "mse")["validation_auc"] > 0.95


def start(*arguments, environment=None):
    command = [sys.executable, ROOT / SCRIPT, *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(environment or {})},
    )


def wait_for(condition, process, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < until
        time.sleep(0.01)


def test_killed_twice_and_resumed_it_goes_the_same_way(face_folder, trained, tmp_path):
    for checkpoint in ("checkpoint-00001.npz", "checkpoint-00002.npz"):
        process = start("--data", face_folder, "--output", tmp_path, *QUICK, "--resume")
        wait_for((tmp_path / checkpoint).exists, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert all(np.load(path)["header"] for path in tmp_path.glob("*.npz"))  # none is half
    done = run_script(SCRIPT, "--data", face_folder, "--output", tmp_path, *QUICK, "--resume")
    assert "resumed after epoch 2" in done.stdout
    uninterrupted, _ = trained
    assert (tmp_path / "history.csv").read_bytes() == (uninterrupted / "history.csv").read_bytes()
    with (
        np.load(tmp_path / "checkpoint-00003.npz") as one,
        np.load(uninterrupted / "checkpoint-00003.npz") as two,
    ):
        assert set(one) == set(two)
        for name in set(one) - {"header"}:
            np.testing.assert_array_equal(one[name], two[name])
    best = [
        json.loads((folder / "Meso4.json").read_text())["best_epoch"] for folder in (tmp_path, uninterrupted)
    ]
    assert best[0] == best[1]
    # a damaged last checkpoint costs an epoch, not the training
    last = tmp_path / "checkpoint-00003.npz"
    last.write_bytes(last.read_bytes()[:1000])
    done = run_script(SCRIPT, "--data", face_folder, "--output", tmp_path, *QUICK, "--resume")
    assert re.search(r"warning: .*00003\.npz: damaged", done.stderr)
    assert (tmp_path / "history.csv").read_bytes() == (uninterrupted / "history.csv").read_bytes()


def test_a_training_is_neither_overwritten_nor_resumed_as_another(face_folder, trained):
    output, _ = trained
    done = run_script(SCRIPT, "--data", face_folder, "--output", output, *QUICK, status=2)
    assert re.search(r"holds a training already: --resume it, or name another --output", done.stderr)
    done = run_script(
        SCRIPT, "--data", face_folder, "--output", output, *QUICK, "--resume", "--loss", "bce", status=2
    )
    assert re.search(r"was trained with loss mse, not bce", done.stderr)


def test_what_is_wrong_with_the_data_is_told(tmp_path):
    write_faces(tmp_path / "data/training", videos=2, frames=2)
    write_faces(tmp_path / "data/validation", videos=2, frames=2, first_video=1)  # one video again
    (tmp_path / "data/training/df").rename(tmp_path / "data/training/fake")
    (tmp_path / "data/training/fake/broken.png").write_text("no image")
    done = run_script(
        SCRIPT,
        "--epochs",
        "1",
        "--batch-size",
        "4",
        "--name",
        "mine",
        "--model",
        "MesoInception4",
        cwd=tmp_path,
    )
    assert "folder fake is taken for df" in done.stdout
    assert re.search(r"warning: 2 videos are in both .*: set1-df1, set1-real1\n", done.stderr)
    assert re.search(r"warning: skipped .*fake/broken\.png: not an image\n", done.stderr)
    assert (tmp_path / "trained/mine.tflite").is_file()


def test_split_by_video_serves_where_there_is_no_validation(tmp_path):
    write_faces(tmp_path / "data/training", videos=4, frames=2)
    done = run_script(SCRIPT, "--epochs", "1", cwd=tmp_path, status=2)
    assert re.search(r"validation: no such folder: .*--split-by-video 0\.1\n", done.stderr)
    done = run_script(SCRIPT, "--epochs", "1", "--batch-size", "4", "--split-by-video", "0.5", cwd=tmp_path)
    assert "validation: 8 images" in done.stdout


def test_divergence_stops_with_a_word_and_keeps_the_best(face_folder, tmp_path):
    done = run_script(
        SCRIPT,
        "--data",
        face_folder,
        "--output",
        tmp_path,
        *QUICK,
        "--learning-rate",
        "1e38",
        "--loss",
        "bce",
        status=1,
    )
    assert re.search(
        r"df_CNN\.py: the loss is (nan|inf) at epoch \d, step \d+: lower the learning rate", done.stderr
    )
    assert done.stderr.count("\n") == 1


def test_usage_errors_are_one_line(face_folder, tmp_path):
    (tmp_path / "file").touch()
    for arguments, reason in (
        (("--data", tmp_path), "training: no such folder"),
        (("--data", face_folder, "--output", tmp_path / "file" / "x"), "Not a directory"),
        (("--data", face_folder, "--output", tmp_path / "new", "--weights", "none"), "none: no such weights"),
    ):
        done = run_script(SCRIPT, *arguments, status=2)
        assert re.search(reason, done.stderr)
        assert done.stderr.count("\n") == 1
    for arguments in (
        ("--evaluate",),
        ("--steps", "0"),
        ("--learning-rate", "-1"),
        ("--split-by-video", "1"),
    ):
        run_script(SCRIPT, *arguments, status=2)


def test_a_full_disk_is_one_line(face_folder, tmp_path):
    process = subprocess.run(
        [sys.executable, ROOT / SCRIPT, "--data", face_folder, "--output", tmp_path / "full", *QUICK],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert process.returncode == 1, process.stderr
    assert process.stderr.startswith("df_CNN.py: ")
    assert process.stderr.count("\n") == 1
    assert [p.name for p in (tmp_path / "full").iterdir()] == []  # no half file


def test_fine_tuning_from_the_authors_weights(shared, face_folder, tmp_path):
    done = run_script(
        SCRIPT, "--data", face_folder, "--output", tmp_path, "--epochs", "1", "--batch-size", "8",
        "--freeze", "4",
        "--weights", shared / "published_weights/Meso4_DF.h5", "--learning-rate", "1e-9", "--patience", "1",
    )  # fmt: skip
    assert done.stderr == ""
    scores = [
        run_script("deepfakes_images.py", "test_images", "--weights", weights).stdout.partition("A score is")[
            0
        ]
        for weights in (tmp_path / "Meso4.tflite", shared / "published_weights/Meso4_DF.h5")
    ]
    assert scores[0] == scores[1]


def test_threshold_is_calibrated(face_folder, tmp_path):
    for ending in ("tflite", "json"):
        shutil.copy(ROOT / f"weights/Meso4_DF.{ending}", tmp_path)
    weights = tmp_path / "Meso4_DF.tflite"
    arguments = ("--evaluate", "--data", face_folder, "--weights", weights, "--output", tmp_path)
    before = find_weights(weights).threshold
    done = run_script(SCRIPT, *arguments, "--calibrate")
    threshold = find_weights(weights).threshold
    assert f"Meso4_DF.json: threshold {before:g} becomes {threshold:g}\n" in done.stdout
    card = json.loads((tmp_path / "Meso4_DF.json").read_text())
    assert sum(found["images"] for found in card["calibrated_on"].values()) > 0
    assert f"below {threshold:g} is called df" in run_script(SCRIPT, *arguments).stdout
    run_script(SCRIPT, "--calibrate", status=2)
    (tmp_path / "Meso4_DF.json").unlink()
    assert "its card" in run_script(SCRIPT, *arguments, "--calibrate", status=2).stderr


def test_the_threshold_chosen_is_the_best():
    images = [
        pipeline.Item(Path(f"{label}{i}"), label, "", f"{label}{i}")
        for label in ("df", "real")
        for i in range(4)
    ]
    assert choose_threshold(images, [0.1, 0.2, 0.3, 0.62, 0.66, 0.7, 0.8, 0.9]) == 0.65
    assert choose_threshold(images, [0.1, 0.2, 0.3, 0.3, 0.66, 0.7, 0.8, 0.9]) == 0.5
    assert choose_threshold(images, [0.1, 0.2, 0.3, 0.3, 0.36, 0.7, 0.8, 0.9]) == 0.35


def test_tensorboard_logs(face_folder, tmp_path):
    pytest.importorskip("tensorboard")
    run_script(
        SCRIPT,
        "--data",
        face_folder,
        "--output",
        tmp_path,
        "--epochs",
        "1",
        "--batch-size",
        "8",
        "--tensorboard",
    )
    assert list((tmp_path / "logs").glob("events.out.tfevents.*"))


# --- several devices and machines -----------------------------------------------------------------

# One epoch in float64, where the order of sums does not show, without dropout, whose draws differ.
COMPARE = """
import sys; sys.path.insert(0, {root!r})
import numpy as np, keras
keras.config.set_floatx("float64")
import tensorflow as tf
if {mirrored}:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from pathlib import Path
from training import data, trainer
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]) if {mirrored} else trainer.choose_strategy()
keras.layers.Dropout.call = lambda self, x, training=False: x
images, _ = data.list_images(Path({data!r}) / "training")
face_set, _ = data.load_faces(images, "nearest", ".")
run = trainer.Trainer(trainer.Recipe(batch_size=12, steps=3), strategy)
for layer in run.model.layers:
    if isinstance(layer, keras.layers.BatchNormalization):
        layer.synchronized = True
loss = run.train_epoch(face_set, 0)[0]
agreed = run.agree(0.25 if trainer.is_chief(strategy) else 7.0)
np.savez({output!r}, loss, agreed, *run.model.get_weights())
"""


def find_free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def make_cluster(count=2):
    """Return the environments of `count` local workers."""
    workers = [f"127.0.0.1:{port}" for port in find_free_ports(count)]
    return [
        {"TF_CONFIG": json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": i}})}
        for i in range(count)
    ]


def test_replicas_train_to_the_weights_of_one_process(face_folder, tmp_path):
    def compare(name, mirrored=False, environment=None):
        code = COMPARE.format(
            root=str(ROOT), data=str(face_folder), output=str(tmp_path / name), mirrored=mirrored
        )
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **(environment or {})}
        return subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, cwd=tmp_path
        )

    runs = [compare("one.npz"), compare("mirrored.npz", mirrored=True)]
    runs += [compare(f"worker{i}.npz", environment=env) for i, env in enumerate(make_cluster())]
    for run in runs:
        _, errors = run.communicate(timeout=300)
        assert run.returncode == 0, errors.decode()[-2000:]
    with np.load(tmp_path / "one.npz") as one:
        for name in ("mirrored", "worker0", "worker1"):
            with np.load(tmp_path / f"{name}.npz") as other:
                for key in one:
                    np.testing.assert_allclose(other[key], one[key], rtol=1e-5, atol=1e-5, err_msg=name)


def test_two_workers_train_and_the_chief_alone_writes(face_folder, tmp_path):
    workers = [
        start("--data", face_folder, "--output", tmp_path / f"output{i}", *QUICK, environment=environment)
        for i, environment in enumerate(make_cluster())
    ]
    printed = [worker.communicate(timeout=300)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], printed
    assert "epoch 3/3" in printed[0]
    assert printed[1] == ""
    assert (tmp_path / "output0/Meso4.tflite").is_file()
    assert len(read_history(tmp_path / "output0")) == 3
    assert list((tmp_path / "output1").iterdir()) == []


def test_a_lost_worker_ends_the_other_with_a_line(face_folder, tmp_path):
    workers = [
        start("--data", face_folder, "--output", tmp_path / f"output{i}", "--epochs", "500", "--batch-size",
              "8", environment=environment)
        for i, environment in enumerate(make_cluster())
    ]  # fmt: skip
    wait_for((tmp_path / "output0/checkpoint-00001.npz").exists, workers[0])
    workers[1].kill()
    workers[1].wait()
    printed, _ = workers[0].communicate(timeout=200)
    assert workers[0].returncode == 1
    assert "Traceback" not in printed
    assert re.search(r"^df_CNN\.py: .+$", printed, re.MULTILINE)


def test_batches_must_divide_over_replicas(monkeypatch):
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    monkeypatch.setattr(type(strategy), "num_replicas_in_sync", property(lambda _: 2))
    with pytest.raises(ValueError, match="batch size 75: wanted a multiple of 2 replicas"):
        trainer.Trainer(trainer.Recipe(), strategy)
