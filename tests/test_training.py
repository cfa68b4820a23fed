"""Training: faces, recipe, and the command through kills, faults and several devices."""

import csv
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, run_main, run_script
from PIL import Image

import pipeline
from classifiers import load_classifier, scale_pixels
from training import cards, data, df_CNN, draws, evaluation, figures, imitation, make_views, trainer, views
from training.lock import hold_lock
from training.recipe import Recipe, format_command, shorten_path
from weights import Rule, find_weights
from weights.scoring.metrics import choose_threshold, evaluate_by_dataset, label_scores
from weights.scoring.scores import Result, score_crops

SCRIPT = "training/df_CNN.py"
QUICK = ("--epochs", "3", "--batch-size", "8", "--seed", "7", "--balance", "--degrade", "0.5",
         "--average", "0.9", "--schedule", "plateau")  # fmt: skip
SHORT = ("--epochs", "1", "--batch-size", "8")


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
    return output, train("--data", face_folder, "--output", output, *QUICK)


def train(*arguments, status=0):
    return run_main(df_CNN.main, *arguments, status=status)


def list_names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def read_history(output):
    with (output / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# --- data -----------------------------------------------------------------------------------------


def test_aliases_are_told_and_videos_come_from_folders_or_names(tmp_path):
    for path in (
        "Fake/clip1/1.png",
        "fake/a-b-1.png",
        "fake/a-c-1.png",
        "original/x.png",
        "real/.hidden/y.png",
        "real/y.png",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    images, aliases = data.list_images(tmp_path)
    assert aliases == {"Fake": "df", "fake": "df", "original": "real"}
    found = {(i.label, i.dataset, i.video.replace(str(tmp_path), "")) for i in images}
    assert found == {
        ("df", "", "clip1"), ("df", "a", "a-b"), ("df", "a", "a-c"),
        ("real", "", "/original/x.png"), ("real", "", "/real/y.png")
    }  # fmt: skip


def test_stray_folders_and_empty_classes_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="training: no such folder"):
        data.list_images(tmp_path / "training")
    write_faces(tmp_path, videos=1, frames=1)
    (tmp_path / "masks").mkdir()
    (tmp_path / "loose.png").touch()
    with pytest.raises(
        ValueError,
        match=rf"{re.escape(str(tmp_path))}: must hold folders named df and real only, not loose\.png, masks",
    ):
        data.list_images(tmp_path)
    (tmp_path / "masks").rmdir()
    (tmp_path / "loose.png").unlink()
    for empty, full in (("real", "df"), ("df", "real")):
        for path in (tmp_path / empty).iterdir():
            path.unlink()
        expected = f"{tmp_path}: no image of class {empty}: {tmp_path / empty} must hold some"
        with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
            data.list_images(tmp_path)
        write_faces(tmp_path, videos=1, frames=1)
        assert len(data.list_images(tmp_path)[0]) == 2, full


def test_videos_among_the_faces_are_reported_with_the_cure(tmp_path):
    write_faces(tmp_path, videos=1, frames=1)
    for path in (tmp_path / "df").iterdir():
        path.rename(path.with_suffix(".mp4"))
    expected = (
        f"{tmp_path}/df: must hold faces, not videos (1 there): move the videos to another folder, say "
        f"videos/df, then: python3 extract_faces.py videos/df --output {tmp_path}/df"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        data.list_images(tmp_path)


def test_very_unequal_classes_suggest_balance():
    def images(forged, real):
        return [pipeline.Item(Path("x"), label, "", "v") for label, n in (("df", forged), ("real", real))
                for _ in range(n)]  # fmt: skip

    assert data.suggest_balance(images(3, 1)) == ""
    assert data.suggest_balance(images(1, 4)) == "4 faces of class real, 1 of df: --balance draws them evenly"
    assert data.suggest_balance(images(7, 2)) == "7 faces of class df, 2 of real: --balance draws them evenly"


def test_leaks_are_videos_not_file_names(tmp_path):
    for split in ("training", "validation"):
        for name in (
            "df/clip/1.png", "df/0001.png", f"real/{split}/1.png", "real/s-v-1.png", f"real/s-{split}-1.png"
        ):  # fmt: skip
            (tmp_path / split / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / split / name).touch()
    splits = [data.list_images(tmp_path / split)[0] for split in ("training", "validation")]
    assert data.find_leaks(*splits) == ["clip", "s-v"]
    (tmp_path / "training/real/one-v-1.png").touch()  # the only video of its set, but in both
    (tmp_path / "validation/real/one-v-2.png").touch()
    (tmp_path / "training/real/one-w-1.png").touch()
    splits = [data.list_images(tmp_path / split)[0] for split in ("training", "validation")]
    assert data.find_leaks(*splits) == ["clip", "one-v", "s-v"]


def test_copies_are_found_whatever_their_names():
    faces = np.arange(3, dtype=np.uint8).repeat(256 * 256 * 3).reshape(3, 256, 256, 3)
    real, df = (pipeline.Item(Path(label), label, "", label) for label in ("real", "df"))
    training = data.FaceSet([real, real], faces[[0, 1]], np.ones((2, 1), np.float32))
    validation = data.FaceSet([real, df, df], faces[[0, 1, 2]], np.zeros((3, 1), np.float32))
    assert data.find_copies(training, validation) == (2, 1)


def name_forgeries(*names):
    return [pipeline.Item(Path(f"{n}-1.png"), n.partition("/")[0], "s", n.partition("/")[2]) for n in names]


def test_a_forgery_and_what_it_was_made_of_are_of_one_part():
    people = [(2 * i, 2 * i + 1) for i in range(10)]
    images = [image for a, b in people for image in name_forgeries(
        f"real/s-{a}", f"real/s-{b}", f"df/s-swap_{a}_{b}", f"df/s-swap_{b}_{a}", f"df/s-f2f_{b}"
    )]  # fmt: skip
    training, validation = data.split_by_video(images, 0.3, seed=1)
    assert len(validation) == 15
    assert not data.find_leaks(training, validation)
    foreign = name_forgeries("real/s-id1_0005", *(f"df/s-id0_id{i}_0000" for i in range(2, 5)))
    assert len(set(data.group_videos(foreign).values())) == 4  # Celeb-DF's names tell of other things
    assert not data.find_leaks(foreign[:2], foreign[2:])
    underscored = pipeline.Item(Path("x"), "df", "my_set", "my_set-swap_1_2")
    assert data.list_sources(underscored) == {"my_set-swap_1_2", "my_set-1", "my_set-2"}
    suffixed = name_forgeries("df/s-swap_0_1_c23", "df/s-swap_2_3_c23")
    assert len(set(data.group_videos(suffixed).values())) == 2
    moved = [image for image in images if image.video == "s-swap_1_0"]
    rest = [image for image in images if image.video != "s-swap_1_0"]
    assert data.find_leaks(rest, moved) == ["s-0", "s-1"]


def test_faces_that_moved_are_the_same(tmp_path):
    for folder in ("one", "two"):
        for label in ("df", "real"):
            (tmp_path / folder / label).mkdir(parents=True)
            (tmp_path / folder / label / "1.png").touch()
    one, two = (data.fingerprint(data.list_images(tmp_path / name)[0]) for name in ("one", "two"))
    assert one == two


def test_file_names_are_no_formulas(tmp_path):
    items = [pipeline.Item(tmp_path / f"{label}$_$b.png", label, "", label) for label in pipeline.LABELS]
    wrong = [Result(items[0], 0.9, "real", ""), Result(items[1], 0.1, "deepfake", "")]
    figures.draw_evaluation(wrong, Rule(), pipeline.View(), tmp_path / "x.png")
    assert (tmp_path / "x.png").is_file()


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


def test_draws_are_even_over_datasets_classes_and_videos():
    def image(label, dataset, video):
        return pipeline.Item(pipeline.Path("x"), label, dataset, video)

    images = [image("df", "a", "1")] * 3 + [
        image("df", "a", "2"),
        image("df", "b", "3"),
        image("real", "a", "4"),
    ]
    np.testing.assert_allclose(draws.weigh_faces(images), [1 / 24] * 3 + [1 / 8, 1 / 2, 1 / 4])


def test_an_epoch_is_drawn_from_seed_and_number_alone(face_folder):
    images, _ = data.list_images(face_folder / "training")
    order, changes = draws.draw_epoch(images, 8, False, 1, 0)
    assert order.shape == (5, 8)
    assert changes.shape == (5, 8, 8)
    assert sorted(set(order.ravel())) == list(range(36))  # every face, and four again
    again = draws.draw_epoch(images, 8, False, 1, 0)
    np.testing.assert_array_equal(order, again[0])
    np.testing.assert_array_equal(changes, again[1])
    assert (order != draws.draw_epoch(images, 8, False, 1, 1)[0]).any()
    assert (order != draws.draw_epoch(images, 8, False, 2, 0)[0]).any()


def test_training_sees_the_pixels_that_scoring_sees(face_folder):
    """One file through both ways to the network, bit for bit."""
    images, _ = data.list_images(face_folder / "training")
    pipeline.write_crop(pipeline.read_image(images[0].path), images[0].path)
    for view in (pipeline.View(), pipeline.View("bilinear"), pipeline.View("bilinear", 0.9)):
        face_set, failed = data.load_faces(images, view, face_folder)
        assert not failed
        seen = []
        list(score_crops(images, lambda x: seen.append(x) or np.zeros(len(x)), view, 0.5, 10))  # noqa: B023
        np.testing.assert_array_equal(face_set.faces, np.concatenate(seen))
        order = np.arange(36).reshape(3, 12)
        batches = data.make_batches(face_set, order, np.zeros((3, 12, 8), np.float32))
        for row, (batch, labels) in zip(order, batches, strict=True):
            np.testing.assert_array_equal(batch, scale_pixels(face_set.faces[row]))
            np.testing.assert_array_equal(labels[:, 0], [images[i].label == "real" for i in row])


def test_faces_that_exceed_memory_lie_on_disk(face_folder, monkeypatch, tmp_path):
    images, _ = data.list_images(face_folder / "training")
    in_memory, _ = data.load_faces(images, pipeline.View(), tmp_path)
    monkeypatch.setattr(data, "IN_MEMORY", 0)
    on_disk, _ = data.load_faces(images, pipeline.View(), tmp_path)
    assert isinstance(on_disk.faces, np.memmap)
    np.testing.assert_array_equal(in_memory.faces, on_disk.faces)
    assert list(tmp_path.iterdir()) == []  # nothing a kill could leave behind


# --- recipe ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("paper", {0: 1e-3, 999: 1e-3, 1001: 1e-4, 2001: 1e-5, 3001: 1e-6, 3999: 1e-6}),
        ("cosine", {0: 1e-3, 1000: 1e-3 * (1 + np.cos(np.pi / 4)) / 2, 2000: 5e-4, 4000: 0}),
    ],
)
def test_learning_rate_schedules(schedule, rates):
    rate = trainer.make_schedule(Recipe(schedule=schedule))
    for step, value in rates.items():
        assert float(rate(step)) == pytest.approx(value, rel=1e-4, abs=1e-12)


def test_plateau_divides_by_ten_down_to_a_millionth():
    network = trainer.Trainer(Recipe(schedule="plateau", learning_rate=3e-5), trainer.choose_strategy())
    rates = [network.learning_rate]
    for _ in range(2):
        network.lower_rate()
        rates.append(network.learning_rate)
    np.testing.assert_allclose(rates, [3e-5, 3e-6, 1e-6], rtol=1e-5)


def test_defaults_are_the_papers():
    recipe = Recipe()
    assert (recipe.steps, recipe.batch_size, recipe.learning_rate, recipe.loss) == (4000, 75, 1e-3, "mse")
    assert recipe.schedule == "paper"
    assert recipe.resample == "nearest"


@pytest.mark.parametrize(("name", "kept"), [("Meso4", 224 + 16 + 1608 + 16), ("MesoInception4", None)])
def test_frozen_blocks_keep_their_weights(face_folder, name, kept):
    images, _ = data.list_images(face_folder / "training")
    face_set, _ = data.load_faces(images, pipeline.View(), face_folder)
    network = trainer.Trainer(Recipe(model=name, steps=3, batch_size=8, freeze=2), trainer.choose_strategy())
    total = sum(np.prod(w.shape) for w in network.scorer.model.trainable_weights)
    trainable = sum(np.prod(w.shape) for w in network.model.trainable_weights)
    assert kept is None or total - trainable == kept
    before = [w.numpy() for w in network.model.weights]
    network.train_epoch(face_set, 0)
    changed = [(w.numpy() != old).any() for w, old in zip(network.model.weights, before, strict=True)]
    frozen = changed.index(True)
    assert frozen == {"Meso4": 12, "MesoInception4": 36}[name]
    assert all(changed[frozen:])
    with pytest.raises(ValueError, match=r"must be 0 to 4, not 5: Meso.* has 4 blocks"):
        trainer.freeze_blocks(network.model, 5)


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
    face_set, _ = data.load_faces(images * 16, pipeline.View("bilinear"), ".")
    recipe = Recipe("MesoInception4", steps=200, batch_size=8, learning_rate=3e-3,
                            imitate=str(ROOT / "weights/Meso4_DF.weights.h5"))  # fmt: skip
    network = trainer.Trainer(recipe, trainer.choose_strategy())
    losses, explained = zip(*(network.train_epoch(face_set, epoch) for epoch in range(12)), strict=True)
    assert losses[-1] < losses[0] / 2
    assert explained[-1] > 0.6 > explained[0]
    heads = (imitation.list_head(model) for model in (network.model, teacher.model))
    for layer, taught in zip(*heads, strict=True):
        for weights, wanted in zip(layer.get_weights(), taught.get_weights(), strict=True):
            np.testing.assert_array_equal(weights, wanted)
    # learnt on windows, it holds on whole faces
    whole = scale_pixels(face_set.faces[: len(images)])
    # by the batch's own statistics: the moving ones need longer
    found = imitation.cut_blocks(network.model, 3)(whole, training=True).numpy()
    wanted = imitation.cut_blocks(teacher.model, 3)(whole, training=False).numpy()
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
        "checkpoint-00002.npz", "checkpoint-00003.npz", "recipe.json",
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


def copy_weights(source, folder, *endings):
    folder.mkdir(exist_ok=True)
    for ending in endings:
        shutil.copy(f"{source}{ending}", folder)
    return folder / f"{Path(source).name}{endings[0]}"


def test_evaluate_alone_repeats_the_cards_figures(face_folder, trained, tmp_path):
    output, training = trained
    table = training.stdout[training.stdout.index("dataset ") : training.stdout.index("A score ")]
    weights = copy_weights(output / "Meso4", tmp_path / "a", ".weights.h5", ".json")
    other = copy_weights(output / "Meso4", tmp_path / "a", ".tflite")
    figures = tmp_path / "figures"
    for path, arguments, figure in (
        (weights, (), tmp_path / "a/evaluation-Meso4.png"),  # beside the weights
        (other, (), tmp_path / "a/evaluation-Meso4-2.png"),  # never over another's
        (weights, ("--output", figures), figures / "evaluation-Meso4.png"),
    ):
        done = train("--evaluate", "--weights", path, "--data", face_folder, *arguments)
        assert table in done.stdout
        assert done.stdout.endswith(f"wrote {figure}\n")
        assert figure.is_file()
    assert [p.name for p in figures.iterdir()] == ["evaluation-Meso4.png"]


def test_it_learns(face_folder):
    images, _ = data.list_images(face_folder / "training")
    face_set, _ = data.load_faces(images, pipeline.View(), face_folder)
    validation, _ = data.load_faces(
        data.list_images(face_folder / "validation")[0], pipeline.View(), face_folder
    )
    network = trainer.Trainer(Recipe(steps=40, batch_size=8, schedule="cosine"), trainer.choose_strategy())
    losses = [network.train_epoch(face_set, epoch)[0] for epoch in range(8)]
    assert losses[-1] < losses[0] / 2
    assert evaluation.measure(validation, network.score(validation), "mse")["validation_auc"] > 0.95


def test_views_are_scored_by_another_and_learnt(face_folder, tmp_path, monkeypatch):
    (tmp_path / "data/training").mkdir(parents=True)
    for path in (face_folder / "training").glob("*/*.png"):
        dataset, video, frame = path.stem.split("-")
        kind = "faceswap_real" if path.parent.name == "df" else "real"  # the video that it was made of
        copy = tmp_path / "data/training" / path.parent.name / f"{dataset}-{kind}{video[-1]}-{frame}.png"
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(path, copy)
    shutil.copytree(face_folder / "validation", tmp_path / "data/validation")
    monkeypatch.chdir(tmp_path)
    assert "wrote 60 views to views\n" in make("data", "views", "--count", "60", "--seed", "3").stdout
    assert list_names(Path("views/validation")) == list_names(face_folder / "validation")
    images, _ = data.list_images("views/training")
    assert len(images) == 60
    partners = draws.pair_faces(images)
    pairs = [(image, images[p]) for image, p in zip(images, partners, strict=True) if image.label == "df"]
    assert len(pairs) == 30
    for forged, real in pairs:  # of the same face, with the same number
        assert forged.path.stem.replace("faceswap_", "") == real.path.stem

    scored = [image for image in images if image.label == "real"]
    rows = "".join(f"{image.path},0.75\n" for image in scored)  # as deepfakes_images.py writes them
    Path("scores.csv").write_text(f"path,score\n{rows}", encoding="utf-8")
    command = ("--data", "views", "--soft-labels", "scores.csv", "--pairs", "--loss", "bce", *SHORT)
    assert f"soft labels: {len(scored)} of 60 images" in train(*command, "--output", "out").stdout
    card = json.loads(Path("out/Meso4.json").read_text(encoding="utf-8"))
    views = card["recipe"]["views"]
    assert (card["resampling"], card["soft_labels"]) == ("bilinear", "scores.csv")
    assert (views["count"], views["degrade"], views["seed"]) == (60, 0.4, 3)
    assert views["faces"] == data.fingerprint(data.list_images("data/training")[0])

    shutil.copy("scores.csv", "moved.csv")
    moved = ("--resume", "--output", "out", "--soft-labels", "moved.csv")
    assert "resumed after epoch 1" in train(*moved).stdout
    Path("moved.csv").write_text(f"path,score\n{rows.replace('0.75', '0.5')}", encoding="utf-8")
    assert "was trained on other faces or soft labels" in train(*moved, status=2).stderr
    for wrong, reason in (
        ("--degrade 0.3", "make_views.py has changed them already"),
        ("--resample nearest", "must be bilinear, as the views were made, not nearest"),
        ("--zoom 1", "must be 1.3, as the views were made, not 1.0"),
    ):
        assert reason in train("--data", "views", "--output", "new", *wrong.split(), status=2).stderr
    Path("views").rename("elsewhere")
    there = ("--data", "elsewhere", "--resume", "--output", "out", "--soft-labels")
    assert "resumed after epoch 1" in train(*there, "scores.csv").stdout
    note = json.loads(Path("elsewhere/views.json").read_text(encoding="utf-8"))
    Path("elsewhere/views.json").write_text(json.dumps(note | {"degrade": 0.9}), encoding="utf-8")
    assert "was not trained on the views, or faces" in train(*there, "scores.csv", status=2).stderr
    Path("elsewhere").rename("views")
    for zoom in ("NaN", "0.1", "9" * 400):
        Path("views/views.json").write_text(f'{{"resampling": "nearest", "zoom": {zoom}}}', encoding="utf-8")
        assert "views.json: damaged" in train("--data", "views", "--output", "new", status=2).stderr
    Path("views/views.json").write_text("{}", encoding="utf-8")
    assert "views.json: damaged" in train("--data", "views", "--output", "new", status=2).stderr


def make(*arguments, status=0):
    return run_main(make_views.main, *arguments, status=status)


def test_views_keep_data_sets_and_videos(tmp_path):
    names = (
        "df/set-kind_a-1", "df/set-kind_b-f7", "real/set-a-1", "real/set-b-2face0",  # data set, video, frame
        "df/clip1/000001", "df/clip1/person_01/000002", "df/obama-fake1/obama-fake1-000001",  # folders
        "real/clip3-000001", "real/clip3-000002", "real/person-john-smiling", "real/a.b.c", "fake/alone",
    )  # fmt: skip
    for part in ("before", "after"):
        for label in ("df", "real"):
            (tmp_path / part / label).mkdir(parents=True)
    for name in names:
        path = tmp_path / "before" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64)).save(path)
    before, _ = data.list_images(tmp_path / "before")
    moved = [views.name_view(image, tmp_path / "before", i) for i, image in enumerate(before)]
    for name in moved:
        (tmp_path / "after" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64)).save(tmp_path / "after" / name)
    after = {image.path: image for image in data.list_images(tmp_path / "after")[0]}
    for image, name in zip(before, moved, strict=True):
        view = after[tmp_path / "after" / name]
        video = image.path.stem if image.video == str(image.path) else image.video
        assert (view.label, view.dataset, view.video) == (image.label, image.dataset, video)


def test_what_is_wrong_with_views_is_told_and_nothing_is_left(face_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(face_folder, "data")
    Path("full").mkdir()
    for arguments, reason in (
        ("data full", "full: exists already: name another folder"),
        (f"data {'x' * 300}", "File name too long"),
        ("data data/training/views", "data/training/views: lies inside data: name a folder beside it"),
        ("none new", "none/training: no such folder"),
        ("data new --shares other=2", "--shares other: no such data set"),
        ("data new --degrade -1", "must be at least 0"),
        ("data new --zoom 9", "--zoom: must be from"),
    ):
        done = make(*arguments.split(), status=1 if "long" in reason else 2)
        assert reason in done.stderr
        assert (
            done.stderr.strip().splitlines()[-1].startswith(("make_views.py", os.path.basename(sys.argv[0])))
        )
    Path("data/validation/real/dangling.png").symlink_to("nothing")
    done = make("data", "new", status=1)
    assert re.fullmatch(r".*dangling.png: cannot be copied \(.*\)\n", done.stderr)
    Path("data/validation/real/dangling.png").unlink()

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "write_crop", stop)
        with pytest.raises(KeyboardInterrupt):
            make("data", "new")
    assert sorted(os.listdir()) == ["data", "full"]
    next(Path("data/training/df").iterdir()).write_text("no image")
    done = make("data", "new", "--count", "4", status=1)
    assert "make_views.py: warning: skipped" in done.stderr.replace(
        os.path.basename(sys.argv[0]), "make_views.py"
    )
    assert "wrote 4 views to new" in done.stdout


def test_soft_labels_come_from_tables_of_ours_and_of_others(face_folder, tmp_path):
    images, _ = data.list_images(face_folder / "training")
    face_set, _ = data.load_faces(images, pipeline.View(), tmp_path)
    first, second, third = (image.path for image in images[:3])
    table = tmp_path / "scores.csv"
    for base in (face_folder / "training", face_folder, face_folder.parent):
        inside = first.relative_to(base)
        table.write_text(
            f"kind,path,score\nimage,{inside},0.25\nimage,{second},0.5\nimage,{third},\nface,{third},0.1\n",
            encoding="utf-8-sig",  # as Excel writes it
        )
        scores = data.read_soft_labels(table, face_folder / "training", images)
        softened = data.soften_labels(face_set, scores).labels
        assert softened[:2].tolist() == [[0.25], [0.5]]
        assert softened[2:].tolist() == face_set.labels[2:].tolist()
    for content, reason in (
        ("file,score\na,0.5\n", "must be a CSV table with the columns path and score"),
        ("path,score\na,1.5\n", "line 2: score must be from 0 (forged) to 1 (real), not 1.5"),
        ("path,score\na,high\n", "line 2: score must be from 0 (forged) to 1 (real), not high"),
        ("path,score\na,0.5\n", "names no image in"),
        ("score,path\n0.5\n", "names no image in"),
        (f'path,score\n"{"a" * 200000}', "field larger than field limit"),
        (f"path,score\n{'a' * 5000},0.5\n", "File name too long"),
        ("path,score\na\0b,0.5\n", str(table)),
    ):
        table.write_text(content)
        done = train("--data", face_folder, "--output", tmp_path / "x", "--soft-labels", table, status=2)
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1
    for wrong in (tmp_path, tmp_path / "none.csv"):
        done = train("--data", face_folder, "--output", tmp_path / "x", "--soft-labels", wrong, status=2)
        assert done.stderr.startswith(
            f"df_CNN.py: {wrong}: ".replace("df_CNN.py", os.path.basename(sys.argv[0]))
        )


def test_accuracy_knows_soft_labels():
    wanted, found = np.float32([[0.0], [0.4], [0.6], [1.0]]), np.float32([[0.2], [0.6], [0.7], [0.1]])
    assert trainer.accuracy(tf.constant(wanted), tf.constant(found)).numpy().tolist() == [1, 0, 1, 0]


def start(*arguments):
    command = [sys.executable, ROOT / SCRIPT, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition, process, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < until
        time.sleep(0.01)


def check_card(stem):
    """The card and the weights of a training that is running, or was killed, belong together."""
    if Path(f"{stem}.json").exists():
        assert find_weights(f"{stem}.weights.h5").network == "Meso4"


def test_killed_twice_and_resumed_it_goes_the_same_way(face_folder, trained, tmp_path):
    first = ("--data", face_folder, *QUICK)
    for awaited, arguments in (("recipe.json", first), ("checkpoint-00001.npz", ("--resume",))):
        process = start("--output", tmp_path, *arguments)
        wait_for((tmp_path / awaited).exists, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert all(np.load(path)["header"] for path in tmp_path.glob("*.npz"))  # none is half
        check_card(tmp_path / "Meso4")
    assert not (tmp_path / "Meso4.tflite").exists()
    done = train("--output", tmp_path, "--resume")  # all else as it was begun
    assert re.search("resumed after epoch [12]", done.stdout)
    uninterrupted, _ = trained
    assert (tmp_path / "history.csv").read_bytes() == (uninterrupted / "history.csv").read_bytes()
    check_same_training(tmp_path, uninterrupted)
    best = [
        json.loads((folder / "Meso4.json").read_text())["best_epoch"] for folder in (tmp_path, uninterrupted)
    ]
    assert best[0] == best[1]


def check_same_training(folder, other, epoch=3):
    name = f"checkpoint-{epoch:05}.npz"
    with np.load(folder / name) as one, np.load(other / name) as two:
        assert set(one) == set(two)
        assert len(one) > 100  # weights, seeds, the optimiser's, averages
        for key in set(one) - {"header"}:
            np.testing.assert_array_equal(one[key], two[key])


def test_a_damaged_last_checkpoint_costs_an_epoch(trained, tmp_path):
    uninterrupted, _ = trained
    folder = tmp_path / "copy"
    shutil.copytree(uninterrupted, folder)
    last = folder / "checkpoint-00003.npz"
    last.write_bytes(last.read_bytes()[:1000])
    done = train("--output", folder, "--resume")
    assert re.search(r"warning: .*00003\.npz: damaged", done.stderr)
    assert "resumed after epoch 2" in done.stdout
    assert (folder / "history.csv").read_bytes() == (uninterrupted / "history.csv").read_bytes()
    check_same_training(folder, uninterrupted)
    assert find_weights(folder / "Meso4").path.suffix == ".tflite"


def test_the_average_is_of_all_weights_and_begins_quickly(face_folder):
    face_set, _ = data.load_faces(data.list_images(face_folder / "training")[0], pipeline.View(), face_folder)
    networks = [trainer.Trainer(Recipe(steps=n, batch_size=8, average=share), trainer.choose_strategy())
                for n, share in ((1, 0.999), (2, 0.999), (2, 0.15))]  # fmt: skip
    start = networks[0].model.get_weights()
    for network in networks:
        network.train_epoch(face_set, 0)
    first, second = networks[0].model.get_weights(), networks[1].model.get_weights()
    for network, kept in ((networks[1], 2 / 11), (networks[2], 0.15)):
        network.score(face_set)
        once = [0.1 * a + 0.9 * b for a, b in zip(start, first, strict=True)]
        for found, mean, last in zip(network.scorer.model.get_weights(), once, second, strict=True):
            np.testing.assert_allclose(found, kept * mean + (1 - kept) * last, rtol=1e-4, atol=1e-6)


def test_a_finished_training_writes_what_is_missing(trained, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(trained[0], folder)
    (folder / "Meso4.tflite").unlink()
    card = (folder / "Meso4.json").read_text()
    done = train("--output", folder, "--resume", "--data", json.loads(
        (trained[0] / "recipe.json").read_text())["data"])  # fmt: skip
    assert "resumed after epoch 3" in done.stdout
    assert find_weights(folder / "Meso4").path.suffix == ".tflite"
    assert json.loads((folder / "Meso4.json").read_text())["recipe"] == json.loads(card)["recipe"]


def test_a_training_without_its_recipe_is_not_resumed(trained, tmp_path):
    shutil.copy(trained[0] / "checkpoint-00003.npz", tmp_path)
    done = train("--output", tmp_path, "--resume", status=2)
    assert done.stderr.endswith(f"{tmp_path}: recipe.json is missing: train in another folder\n")


def test_litert_weights_are_not_trained_on(face_folder, tmp_path):
    done = train(
        "--data", face_folder, "--output", tmp_path, "--weights", ROOT / "weights/Meso4_DF.tflite", status=2
    )
    assert done.stderr.endswith("Meso4_DF.tflite: must be Keras weights, .weights.h5, .h5 or .hdf5\n")
    assert not list(tmp_path.iterdir())


def test_a_training_is_neither_overwritten_nor_resumed_as_another(face_folder, trained):
    output, _ = trained
    done = train("--data", face_folder, "--output", output, *QUICK, status=2)
    assert re.search(r"holds a training already: --resume it, or name another --output", done.stderr)
    for arguments, reason in (
        (("--loss", "bce"), "was trained with loss mse, not bce"),
        (("--model", "MesoInception4"), "was trained with model Meso4, not MesoInception4"),
        (("--epochs", "4"), "was trained with steps 15, not 20"),
        (("--split-by-video", "0.1"), "was trained with --split-by-video 0"),
    ):
        done = train("--output", output, "--resume", *arguments, status=2)
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1


def test_two_trainings_do_not_share_a_folder(face_folder, tmp_path):
    with hold_lock(tmp_path / ".lock"):
        done = train("--data", face_folder, "--output", tmp_path, *SHORT, status=2)
        assert f"{tmp_path}: another run is writing there" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_with_the_data_is_told(tmp_path, monkeypatch):
    write_faces(tmp_path / "data/training", videos=2, frames=2)
    write_faces(tmp_path / "data/validation", videos=2, frames=2, first_video=1)  # one video again
    (tmp_path / "data/training/df").rename(tmp_path / "data/training/fake")
    (tmp_path / "data/training/fake/broken.png").write_text("no image")
    monkeypatch.chdir(tmp_path)
    done = train(
        "--epochs", "1", "--batch-size", "4", "--name", "mine", "--model", "MesoInception4", "--zoom", "0.9"
    )
    assert find_weights("trained/mine").view.zoom == 0.9
    assert "training: 4 of 4 real faces do not say how wide they were cut: taken whole" in done.stdout
    for arguments in (
        ("--evaluate", "--calibrate", "--weights", "trained/mine"),
        ("--imitate", "trained/mine"),
    ):
        refused = train(*arguments, "--zoom", "1.2", "--output", "other", status=2)
        assert re.search(r"trained/mine\S*:? needs .*zoom 0\.9, not ", refused.stderr)
    assert "folder fake is taken for df" in done.stdout
    assert re.search(r"warning: 2 videos, or .* are in both .*: set1-df1, set1-real1\n", done.stderr)
    assert re.search(r"warning: skipped .*fake/broken\.png: not an image\n", done.stderr)
    assert (tmp_path / "trained/mine.tflite").is_file()


def test_split_by_video_serves_where_there_is_no_validation(tmp_path, monkeypatch):
    write_faces(tmp_path / "data/training", videos=4, frames=2)
    monkeypatch.chdir(tmp_path)
    done = train("--epochs", "1", status=2)
    assert re.search(r"validation: no such folder: .*--split-by-video 0\.1\n", done.stderr)
    done = train("--epochs", "1", "--batch-size", "4", "--split-by-video", "0.5")
    assert "validation: 8 images" in done.stdout
    # afterwards too, the same ones
    again = train("--evaluate", "--weights", "trained/Meso4.tflite")
    assert "validation: 8 images" in again.stdout
    table = done.stdout[done.stdout.index("dataset ") : done.stdout.index("A score ")]
    assert table in again.stdout
    resumed = train("--resume")
    assert "resumed after epoch 1" in resumed.stdout
    held_out = json.loads((tmp_path / "trained/held_out.json").read_text())
    (tmp_path / "data/training" / held_out[0]).unlink()
    done = train("--evaluate", "--weights", "trained/Meso4.tflite", status=2)
    assert "held_out.json: 1 of 8 images are gone" in done.stderr


def test_resuming_needs_its_faces_but_not_its_start(face_folder, tmp_path):
    write_faces(tmp_path / "data/training", videos=2, frames=2)
    shutil.copytree(face_folder / "validation", tmp_path / "data/validation")
    start_from = copy_weights(ROOT / "weights/Meso4_F2F", tmp_path / "w", ".weights.h5", ".json")
    output = ("--output", tmp_path / "out")
    train("--data", tmp_path / "data", "--weights", start_from, "--epochs", "1", "--batch-size", "4", *output)
    start_from.unlink()
    assert "resumed after epoch 1" in train("--resume", *output).stdout
    Image.new("RGB", (64, 64)).save(tmp_path / "data/training/df/one-more-1.png")
    (tmp_path / "data/training/df/clip.mp4").touch()
    done = train("--resume", *output, status=2)
    assert "was trained on other faces than those in data/training now" in done.stderr
    assert "warning: 1 videos lie among the faces, in training/df: extract_faces.py cuts" in done.stderr


def test_divergence_stops_with_a_word_and_keeps_the_best(face_folder, tmp_path):
    done = train(
        "--data", face_folder, "--output", tmp_path, *QUICK, "--learning-rate", "1e38", "--loss", "bce",
        status=1,
    )  # fmt: skip
    assert re.search(r": the loss is (nan|inf) at epoch \d, step \d+: lower the learning rate", done.stderr)
    assert done.stderr.count("\n") == 1


def test_usage_errors_are_one_line(face_folder, tmp_path):
    (tmp_path / "file").touch()
    for arguments, reason in (
        (("--data", tmp_path), "/training: no such folder: .* must hold training/df, training/real, "
                               "validation/df and validation/real"),
        (("--data", face_folder, "--output", tmp_path / "file" / "x"), "Not a directory"),
        (("--data", face_folder, "--output", tmp_path / "new", "--weights", "none"), "none: no such weights"),
        (("--data", face_folder, "--output", tmp_path / "new", "--pairs", "--shares", "x=2"),
         "--shares x: no such data set in training; there are: "),
    ):  # fmt: skip
        done = train(*arguments, status=2)
        assert re.search(reason, done.stderr)
        assert done.stderr.count("\n") == 1
    for wrong in (
        "--evaluate", "--evaluate --weights Meso4_DF --split-by-video 0.1", "--steps 0", "--learning-rate -1",
        "--split-by-video 1", "--average 1", "--degrade -1", "--freeze 5", "--name a/b", "--seed -1",
        "--calibrate", "--patience -1", "--evaluate --weights Meso4_DF --resume",
        f"--output {ROOT}/README.md", "--shares set0=2", "--pairs --shares set0", "--pairs --shares set0=-1",
        "--pairs --shares set0=1,set0=2",
        "--imitate Meso4_DF --soft-labels x.csv",
    ):  # fmt: skip
        train(*wrong.split(), status=2)
    assert not (tmp_path / "new").exists()


def test_wrong_usage_is_refused_before_tensorflow_is_imported(face_folder, tmp_path):
    code = (
        "import sys\n"
        "from training import df_CNN\n"
        "for arguments in sys.argv[1:]:\n"
        "    try:\n"
        "        df_CNN.main(arguments.split())\n"
        "    except SystemExit:\n"
        "        pass\n"
        "sys.exit('tensorflow' in sys.modules)\n"
    )
    wrong = (
        "--seed -1",
        f"--data {tmp_path}",
        f"--data {face_folder} --weights none --output {tmp_path / 'x'}",
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *wrong], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no such") == 2
    run_script(SCRIPT, "--seed", "-1", status=2)


def test_a_full_disk_is_one_line(face_folder, tmp_path):
    process = subprocess.run(
        [sys.executable, ROOT / SCRIPT, "--data", face_folder, "--output", tmp_path / "full", *QUICK],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert process.returncode == 1, process.stderr
    assert process.stderr.startswith("df_CNN.py: ")
    assert process.stderr.count("\n") == 1
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["recipe.json"]  # no half file


def test_weights_and_card_appear_together(tmp_path, monkeypatch):
    """A disk that fills up, or a kill, between the two leaves the pair as it was."""
    classifier = load_classifier(ROOT / "weights/Meso4_DF.weights.h5")
    card = {"network": "Meso4", "resampling": "nearest", "threshold": 0.5}
    cards.write_best(classifier, tmp_path / "x", card)
    cards.write_litert(classifier, tmp_path / "x")
    assert find_weights(tmp_path / "x").path.suffix == ".tflite"
    before = (tmp_path / "x.weights.h5").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "compute_sha256", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cards.write_best(load_classifier(ROOT / "weights/Meso4_F2F.weights.h5"), tmp_path / "x", card)
    assert find_weights(tmp_path / "x.weights.h5").path.read_bytes() == before
    cards.write_best(load_classifier(ROOT / "weights/Meso4_F2F.weights.h5"), tmp_path / "x", card)
    assert find_weights(tmp_path / "x").path.name == "x.weights.h5"  # no .tflite of other weights
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.json", "x.weights.h5"]


def test_fine_tuning_from_the_authors_weights(shared, face_folder, tmp_path):
    done = train(
        "--data", face_folder, "--output", tmp_path, *SHORT, "--freeze", "4",
        "--weights", shared / "published_weights/Meso4_DF.h5", "--learning-rate", "1e-9", "--patience", "1",
    )  # fmt: skip
    assert done.stderr == ""
    scores = [
        run_script("deepfakes_images.py", "test_images", "--weights", weights).stdout.partition(
            "A score says"
        )[0]
        for weights in (tmp_path / "Meso4.tflite", shared / "published_weights/Meso4_DF.h5")
    ]
    assert scores[0] == scores[1]
    assert json.loads((tmp_path / "Meso4.json").read_text())["recipe"]["weights"].endswith("/Meso4_DF.h5")


def test_cards_hold_no_path_of_this_machine(face_folder, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shorten_path("data/x") == "data/x"
    assert shorten_path(str(tmp_path / "a/b")) == "a/b"
    assert shorten_path(str(ROOT / "weights/Meso4_DF.weights.h5")) == "weights/Meso4_DF.weights.h5"
    assert shorten_path("/home/someone/deep/down/x.h5") == "down/x.h5"
    assert format_command(["--data", "/a/b/c d", "--output=/x/y/z", "--steps", "3"]) == (
        "python3 training/df_CNN.py --data 'b/c d' --output=y/z --steps 3"
    )
    for path in (*(ROOT / "weights").glob("*.json"), trained[0] / "Meso4.json"):
        words = re.findall(r'[^\s"]+', path.read_text())
        assert not [word for word in words if os.path.isabs(word.rpartition("=")[2]) and len(word) > 1], path
    assert face_folder.name in json.loads((trained[0] / "Meso4.json").read_text())["command"]


def test_threshold_is_calibrated(face_folder, tmp_path):
    weights = copy_weights(ROOT / "weights/Meso4_DF", tmp_path, ".tflite", ".json")
    arguments = ("--evaluate", "--data", face_folder, "--weights", weights)
    before = find_weights(weights).rule.threshold
    done = train(*arguments, "--calibrate")
    threshold = find_weights(weights).rule.threshold
    assert f"Meso4_DF.json: threshold {before:g} becomes {threshold:g}\n" in done.stdout
    card = json.loads((tmp_path / "Meso4_DF.json").read_text())
    assert sum(found["images"] for found in card["calibrated_on"].values()) > 0
    assert f"a face or video below {threshold:g} is called df" in train(*arguments).stdout
    train("--calibrate", status=2)
    (tmp_path / "Meso4_DF.json").unlink()
    assert "its card" in train(*arguments, "--calibrate", status=2).stderr


def test_calibration_in_vain_is_reported(tmp_path):
    weights = copy_weights(ROOT / "weights/Meso4_DF", tmp_path / "w", ".tflite", ".json")
    (tmp_path / "data/validation").mkdir(parents=True)
    for label, other in (("df", "real"), ("real", "df")):  # labels the wrong way round
        shutil.copytree(ROOT / "test_images" / label, tmp_path / "data/validation" / other)
    done = train("--evaluate", "--calibrate", "--data", tmp_path / "data", "--weights", weights)
    assert re.search(
        r"warning: AUC 0\.\d+ is below 0\.5, worse than chance: .*whatever the threshold\n", done.stderr
    )
    images = [pipeline.Item(Path(label), label, "", label) for label in ("df", "real")]
    for scores, faults in (((0.9, 0.95), ["no face of class df is classified right"]), ((0.1, 0.9), [])):
        found = evaluate_by_dataset(label_scores(images, scores, 0.5), Rule())
        assert evaluation.find_faults(found) == faults


def test_the_worst_errors_are_one_of_a_video():
    rows = [("real", "a", 0.1), ("real", "a", 0.05), ("df", "b", 0.9), ("real", "c", 0.4), ("df", "d", 0.2)]
    images = [pipeline.Item(Path(f"{i}.png"), label, "", video) for i, (label, video, _) in enumerate(rows)]
    worst = figures.pick_worst(label_scores(images, [score for *_, score in rows], 0.5), 0.5)
    assert [result.item.path.name for result in worst] == ["1.png", "2.png", "3.png"]


def test_the_threshold_chosen_is_the_best():
    images = [
        pipeline.Item(Path(f"{label}{i}"), label, "", f"{label}{i}")
        for label in ("df", "real")
        for i in range(4)
    ]
    assert choose_threshold(images, [0.1, 0.2, 0.3, 0.62, 0.66, 0.7, 0.8, 0.9]) == 0.65
    assert choose_threshold(images, [0.1, 0.2, 0.3, 0.3, 0.66, 0.7, 0.8, 0.9]) == 0.5
    scores = [0.1, 0.2, 0.3, 0.3, 0.36, 0.7, 0.8, 0.9]
    assert choose_threshold(images, scores) == 0.35
    assert choose_threshold(images, scores, lowest=0.4, highest=0.6) == 0.5
    assert choose_threshold(images, scores, lowest=0.51, highest=0.54) == pytest.approx(0.525)


def test_tensorboard_logs(face_folder, tmp_path):
    pytest.importorskip("tensorboard")
    train("--data", face_folder, "--output", tmp_path, *SHORT, "--tensorboard")
    assert list((tmp_path / "logs").glob("events.out.tfevents.*"))


# --- several devices ------------------------------------------------------------------------------

# In float64, where the order of sums does not show, without dropout, whose draws differ.
COMPARE = """
import sys; sys.path.insert(0, {root!r})
import classifiers, numpy as np, keras, pipeline
keras.config.set_floatx("float64")
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from training import data, trainer
keras.layers.Dropout.call = lambda self, x, training=False: x
images, _ = data.list_images({folder!r})
face_set, _ = data.load_faces(images, pipeline.View(), ".")
recipe = trainer.Recipe(batch_size=4, steps=2)
imitating = recipe._replace(model="MesoInception4", imitate={teacher!r})
strategies = trainer.choose_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
for i, recipe in enumerate((recipe._replace(average=0.9), imitating)):
    for j, strategy in enumerate(strategies):
        run = trainer.Trainer(recipe, strategy)
        for layer in run.model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True
        loss = run.train_epoch(face_set, 0)[0]
        np.savez(f"{{i}}{{j}}.npz", loss, run.score(face_set), *run.model.get_weights())
"""


def test_two_devices_train_to_the_weights_of_one(face_folder, tmp_path):
    teacher = str(ROOT / "weights/Meso4_DF.weights.h5")
    code = COMPARE.format(root=str(ROOT), folder=str(face_folder / "training"), teacher=teacher)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for i in (0, 1):
        with np.load(tmp_path / f"{i}0.npz") as one, np.load(tmp_path / f"{i}1.npz") as other:
            assert len(one) == len(other) > 20
            for key in one:
                np.testing.assert_allclose(other[key], one[key], rtol=1e-5, atol=1e-5, err_msg=key)


def test_batches_must_divide_over_devices(monkeypatch):
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    monkeypatch.setattr(type(strategy), "num_replicas_in_sync", property(lambda _: 2))
    with pytest.raises(ValueError, match=r"batch size must be a multiple of 2 \(GPUs\), not 75"):
        trainer.Trainer(Recipe(), strategy)
