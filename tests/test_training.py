"""Training: faces, recipe, and the command through kills and faults."""

import csv
import itertools
import json
import os
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import ROOT, run_script, start, touch, wait_for
from PIL import Image

import pipeline
from classifiers import load_classifier, scale_pixels
from pipeline import Item
from training import augmentation, calibration, data, df_CNN, trainer
from training.recipe import Recipe, make_card, make_recipe
from weights import Weights, find_weights, load_predictor
from weights.scoring import scores
from weights.scoring.metrics import compute_auc

SCRIPT = "training/df_CNN.py"
QUICK = ("--steps", "15", "--batch-size", "8", "--seed", "7", "--pairs", "--balance", "set0=2",
         "--degrade", "0.5", "--average", "0.9", "--schedule", "cosine")  # fmt: skip
SHORT = ("--steps", "5", "--batch-size", "8")


@pytest.fixture(autouse=True)
def few_maps(monkeypatch):
    monkeypatch.setattr(calibration, "MAPPED", 1)  # they take the time of a hundred faces each


def write_faces(folder, videos, frames, first_video=0):
    """Write faces that are told apart easily: "real" noise, "df" the same blurred; 60 to 90 pixels."""
    random = np.random.default_rng(first_video)
    for video in range(first_video, first_video + videos):
        for label, name in (("df", f"swap_{video}"), ("real", str(video))):
            place = folder / label / f"set{video % 2}" / name
            place.mkdir(parents=True)
            for frame in range(frames):
                side = int(random.integers(60, 90))
                pixels = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
                image = Image.fromarray(pixels)
                if label == "df":
                    image = image.resize((8, 8)).resize((side, side), Image.Resampling.BICUBIC)
                image.save(place / f"{frame}.png")


@pytest.fixture(scope="module")
def face_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_faces(folder / "training", videos=6, frames=3)
    write_faces(folder / "validation", videos=4, frames=2, first_video=10)
    return folder


@pytest.fixture(scope="module")
def trained(face_folder, tmp_path_factory):
    """Output folder of a short training, and what it printed."""
    output = tmp_path_factory.mktemp("module") / "trained"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "MAPPED", 1)
        return output, train("--data", face_folder, "--output", output, *QUICK)


@pytest.fixture(scope="module")
def face_set(face_folder):
    return load(face_folder / "training")


def load(folder):
    return data.load_faces(data.list_faces(folder), pipeline.View(), folder)


def train(*arguments, status=0):
    return run_script(SCRIPT, *arguments, status=status)


def refuse(reason, *arguments, status=2):
    error = train(*arguments, status=status).stderr
    assert re.search(reason, error)
    assert error.count("\n") == 1


def test_stray_folders_and_empty_classes_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="training: no such folder"):
        data.list_faces(tmp_path / "training")
    touch(tmp_path, "real/clip.mp4", "masks/1.png", "loose.png")
    with pytest.raises(ValueError, match=r"named df and real only, not loose\.png, masks"):
        data.list_faces(tmp_path)
    shutil.rmtree(tmp_path / "masks")
    (tmp_path / "loose.png").unlink()
    with pytest.raises(ValueError, match="no image of class df can be read: extract_faces"):
        load(tmp_path)


def name_forgeries(*names):
    return [Item(Path(f"{n}/1.png"), f"{n}/1", *n.split("/")) for n in names]


def test_leaks_are_videos_in_both_parts():
    loose = Item(Path("df/0001.png"), "df/0001", "df", "", "df/0001.png")  # of no known video
    training = [*name_forgeries("real/s/v", "real/s/w", "df/s/swap_u", "real/s/x"), loose]
    validation = [*name_forgeries("real/s/v", "df/s/swap_w", "df/s/swap_t", "df/s/y"), loose]
    assert data.find_leaks(training, validation) == [
        "videos, or forgeries of them, are in both training and validation, 2 in all: s/swap_w, s/v"
    ]
    assert data.find_leaks([loose], [loose]) == []


def test_a_forgery_and_what_it_was_made_of_are_of_one_part():
    people = [(2 * i, 2 * i + 1) for i in range(10)]
    items = [item for a, b in people for item in name_forgeries(
        f"real/s/{a}", f"real/s/{b}", f"df/s/swap_{a}_{b}", f"df/s/swap_{b}_{a}", f"df/s/f2f_{b}"
    )]  # fmt: skip
    training, validation = data.split_videos(items, 0.3)
    assert len(validation) == 15
    assert not {i.video.split("_")[-1] for i in training} & {i.video.split("_")[-1] for i in validation}
    foreign = name_forgeries("real/s/id1_0005", *(f"df/s/id0_id{i}_0000" for i in range(2, 5)))
    assert len(set(data.group_videos(foreign))) == 4  # Celeb-DF's names tell of other things
    suffixed = name_forgeries("df/s/swap_0_1_c23", "df/s/swap_2_3_c23")
    assert len(set(data.group_videos(suffixed))) == 2


def test_what_is_held_out_depends_on_the_names_alone(face_folder):
    items = data.list_faces(face_folder / "training")
    training, validation = data.split_videos(items, 0.1)
    held_out = {item.video for item in validation}
    assert len(training) + len(validation) == len(items)
    assert {i.dataset for i in validation} == {"set0", "set1"}
    assert len(held_out) == 4  # at least one group, a video with its forgery, of each set
    many = name_forgeries(*(f"{x}/big/{v}" for v in range(30) for x in ("df", "real")))
    chosen, fewer = ({i.video for i in data.split_videos(part, 0.2)[1]} for part in (many, many[:40]))
    assert (len(chosen), len(fewer)) == (6, 4)
    assert fewer < chosen  # those that were held out stay so when videos come in
    assert data.split_videos(items[::-1], 0.1)[1][::-1] == validation
    assert not data.split_videos([i for i in items if i.video in ("0", "swap_0")], 0.3)[1]


def test_training_sees_the_pixels_that_scoring_sees(face_folder, tmp_path, monkeypatch):
    """One file through both ways to the network, bit for bit; nothing is left on the disk."""
    folder = tmp_path / "faces"
    shutil.copytree(face_folder / "training", folder)
    items = data.list_faces(folder)
    pipeline.write_crop(pipeline.read_image(items[0].path), items[0].path)
    (tmp_path / "scratch").mkdir()
    for view in (pipeline.View(), pipeline.View("bilinear"), pipeline.View("bilinear", 0.9)):
        face_set = data.load_faces(items, view, tmp_path / "scratch")
        assert isinstance(face_set.faces, np.memmap)
        assert not list((tmp_path / "scratch").iterdir())  # nothing that a kill could leave behind
        seen = []
        predict = lambda x: seen.append(x) or np.zeros((len(x), 1))  # noqa: B023, E731
        monkeypatch.setattr(scores, "load_predictor", lambda _: predict)  # noqa: B023
        list(scores.score_images(items, Weights(Path(), "", view), align=False))
        np.testing.assert_array_equal(face_set.faces, np.concatenate(seen))
    order = np.arange(36).reshape(3, 12)
    monkeypatch.setattr(augmentation, "draw_numbers", lambda seeds: np.zeros((len(seeds), 7, 2), np.float32))
    batches = list(data.make_batches(face_set, order, order))
    for row, (batch, labels) in zip(order, batches, strict=True):
        np.testing.assert_array_equal(batch, scale_pixels(face_set.faces[row]))
        np.testing.assert_array_equal(labels[:, 0], [items[i].label == "real" for i in row])


def test_defaults_and_schedules_are_the_papers():
    recipe = Recipe()
    assert (recipe.steps, recipe.batch_size, recipe.learning_rate, recipe.loss) == (4000, 75, 1e-3, "mse")
    assert (recipe.schedule, recipe.resample) == ("paper", "nearest")
    papers = {0: 1e-3, 999: 1e-3, 1001: 1e-4, 2001: 1e-5, 3001: 1e-6, 3999: 1e-6}
    cosine = {0: 1e-3, 1000: 1e-3 * (1 + np.cos(np.pi / 4)) / 2, 2000: 5e-4, 4000: 0}
    for schedule, rates in (("paper", papers), ("cosine", cosine)):
        rate = trainer.make_schedule(Recipe(schedule=schedule))
        assert [float(rate(step)) for step in rates] == pytest.approx([*rates.values()], rel=1e-4, abs=1e-12)


def test_it_learns(face_folder, face_set):
    network = trainer.Trainer(Recipe(steps=40, batch_size=8, schedule="cosine"))
    losses = [network.train_epoch(face_set, epoch, itertools.count())["loss"] for epoch in range(8)]
    assert losses[-1] < losses[0] / 2
    validation = load(face_folder / "validation")
    assert compute_auc([item.label for item in validation.items], network.score(validation)) > 0.95


def test_the_average_is_of_all_weights_and_begins_quickly(face_set):
    networks = [trainer.Trainer(Recipe(steps=n, batch_size=8, average=share))
                for n, share in ((1, 0.999), (2, 0.999), (2, 0.15))]  # fmt: skip
    start = networks[0].model.get_weights()
    for network in networks:
        network.train_epoch(face_set, 0, itertools.count())
    first, second = networks[0].model.get_weights(), networks[1].model.get_weights()
    for network, kept in ((networks[1], 2 / 11), (networks[2], 0.15)):
        network.score(face_set)
        once = [0.1 * a + 0.9 * b for a, b in zip(start, first, strict=True)]
        for found, mean, last in zip(network.scorer.model.get_weights(), once, second, strict=True):
            np.testing.assert_allclose(found, kept * mean + (1 - kept) * last, rtol=1e-4, atol=1e-6)


# --- the command ----------------------------------------------------------------------------------


def test_training_writes_all_that_it_promises(face_folder, trained):
    output, done = trained
    assert done.stderr == ""
    assert "trained on set0 df 9 (3 videos), set0 real 9 (3 videos)" in done.stdout
    epoch = r"^epoch (\d)/3: loss [\d.]+, accuracy .* auc [\d.]+.* images/s$"
    assert re.findall(epoch, done.stdout, re.MULTILINE) == ["1", "2", "3"]
    assert {p.name for p in output.iterdir()} == {
        "Meso4.weights.h5", "Meso4.tflite", "Meso4.json", "history.csv", "curves.png", "checkpoint.npz",
        "recipe.json",
    }  # fmt: skip
    with (output / "history.csv").open(newline="") as file:
        history = list(csv.DictReader(file))
    assert [row["step"] for row in history] == ["5", "10", "15"]
    best = max(history, key=lambda row: (float(row["validation_auc"]), -int(row["epoch"])))
    weights, faces = find_weights(output / "Meso4"), load(face_folder / "validation")
    card = weights.card
    auc = compute_auc([item.label for item in faces.items], load_predictor(weights)(faces.faces)[:, 0])
    assert card["validation"]["all"]["image"]["auc"] == pytest.approx(auc)
    assert card["validation"]["mean"]["image"]["auc"] == pytest.approx(float(best["validation_auc"]))
    assert card["best_epoch"] == int(best["epoch"])
    assert card["trained_on"]["set1 df"] == {"images": 9, "videos": 3}
    assert card["calibrated_on"]["set1 df"] == {"images": 4, "videos": 2}
    assert f"threshold {card['threshold']:g}: a face below it" in done.stdout
    assert 'no bounds of "uncertain"' in done.stdout
    assert (card["recipe"]["seed"], card["recipe"]["balance"]) == (7, {"set0": 2})
    assert "--seed 7" in card["command"]
    assert card["versions"]["keras"] == keras.__version__
    assert re.fullmatch("[0-9a-f]{40}|", card["commit"])
    words = re.findall(r'[^\s"]+', (output / "Meso4.json").read_text())
    assert not [word for word in words if os.path.isabs(word.rpartition("=")[2]) and len(word) > 1]
    assert Image.open(output / "curves.png").size[0] > 800
    assert (output / "checkpoint.npz").stat().st_size < 600_000


def test_killed_twice_and_resumed_it_goes_the_same_way(face_folder, trained, tmp_path):
    for name, words in (("recipe.json", ("--data", face_folder, *QUICK)), ("checkpoint.npz", ["--resume"])):
        process = start(ROOT / SCRIPT, "--output", tmp_path, *words)
        wait_for(process, tmp_path, name)
        process.kill()
        process.communicate()
    assert np.load(tmp_path / "checkpoint.npz")["history"]  # it is not half
    done = train("--output", tmp_path, "--resume")  # all else as it was begun
    assert re.search("resumed after epoch [12]", done.stdout)
    uninterrupted, _ = trained
    assert (tmp_path / "history.csv").read_bytes() == (uninterrupted / "history.csv").read_bytes()
    one, two = (np.load(folder / "checkpoint.npz") for folder in (tmp_path, uninterrupted))
    assert set(one) == set(two)
    assert len(one) > 90  # weights, seeds, the optimiser's, averages
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])
    cards = [find_weights(folder / "Meso4").card for folder in (tmp_path, uninterrupted)]
    assert cards[0]["best_epoch"] == cards[1]["best_epoch"]
    assert cards[0]["threshold"] == cards[1]["threshold"]


def test_a_finished_training_writes_what_is_missing(face_folder, trained, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(trained[0], folder)
    (folder / "Meso4.tflite").unlink()
    card = json.loads((folder / "Meso4.json").read_text())
    shutil.copytree(face_folder, tmp_path / "moved")
    done = train("--output", folder, "--resume", "--data", tmp_path / "moved")
    assert "resumed after epoch 3" in done.stdout
    again = find_weights(folder / "Meso4").card
    assert again["recipe"].pop("data") == "moved"
    del card["recipe"]["data"]
    assert again == {**card, "sha256": again["sha256"]}
    (folder / "checkpoint.npz").write_bytes(b"no checkpoint")
    done = train("--output", folder, "--resume", status=2)
    assert re.search(r"checkpoint\.npz: damaged .*: train anew in another folder\n$", done.stderr)


def test_a_training_is_neither_overwritten_nor_resumed_as_another(face_folder, trained):
    for arguments, reason in (
        (("--data", face_folder, *QUICK), "holds a training: --resume it, or give another --output"),
        (("--resume", "--loss", "bce"), "--resume: must be given with --output and --data only"),
    ):
        refuse(reason, "--output", trained[0], *arguments)


def test_few_steps_lead_to_a_card_with_bounds(tmp_path, monkeypatch):
    """And what is wrong with the data is said."""
    write_faces(tmp_path / "data/training", videos=2, frames=2)
    write_faces(tmp_path / "data/validation", videos=20, frames=3, first_video=1)  # one video again
    (tmp_path / "data/training/df").rename(tmp_path / "data/training/fake")
    (tmp_path / "data/training/fake/broken.png").write_text("no image")
    monkeypatch.chdir(tmp_path)
    done = train("--steps", "3", "--batch-size", "4", "--name", "mine", "--model", "MesoInception4",
                 "--zoom", "0.9")  # fmt: skip
    weights = find_weights("trained/mine")
    assert weights.view.zoom == 0.9
    assert weights.rule.video
    counts = weights.card["calibration"]["kinds"]
    assert {kind: sum(verdicts.values()) for kind, verdicts in counts.items()} == {"real": 20, "swap": 20}
    assert f"videos: deepfake below {weights.rule.video.lower:.3f}, real above" in done.stdout
    leak = "videos, or forgeries of them, are in both training and validation, 1 in all: set1/1"
    assert f"warning: {leak}\n" in done.stderr
    assert re.search(r"warning: skipped .*fake/broken\.png: not an image\n", done.stderr)


def test_resuming_needs_its_faces_but_not_its_start(tmp_path, monkeypatch):
    write_faces(tmp_path / "data/training", videos=4, frames=2)
    for ending in (".weights.h5", ".json"):
        shutil.copy(ROOT / f"weights/Meso4_F2F{ending}", tmp_path)
    monkeypatch.chdir(tmp_path)
    done = train(*SHORT, status=2)
    assert done.stderr.endswith("validation: no such folder: make it, or use --split-by-video 0.1\n")
    done = train(*SHORT, "--split-by-video", "0.5", "--weights", tmp_path / "Meso4_F2F")
    assert "validated on set0 df 2 (1 videos), set0 real 2 (1 videos), set1" in done.stdout
    assert find_weights("trained/Meso4").card["recipe"]["weights"] == "Meso4_F2F.weights.h5"
    assert find_weights("trained/Meso4").view == find_weights("Meso4_F2F").view._replace(mirrored=True)
    (tmp_path / "Meso4_F2F.weights.h5").unlink()
    assert "resumed after epoch 5" in train("--resume").stdout
    next((tmp_path / "data/training/df").rglob("*.png")).rename(tmp_path / "data/training/df/other.png")
    assert "was trained with other faces" in train("--resume", status=2).stderr
    (tmp_path / "trained/recipe.json").unlink()
    done = train("--resume", status=2)
    assert done.stderr.endswith("recipe.json: no such file: there is no training to resume\n")


def test_the_authors_weights_are_a_start(face_set, shared):
    recipe = Recipe("MesoInception4", weights=str(shared / "published_weights/MesoInception_DF.h5"))
    authors = load_classifier(recipe.weights).predict(face_set.faces[:4])[:, 0]
    few = face_set._replace(faces=face_set.faces[:4])
    np.testing.assert_allclose(trainer.Trainer(recipe).score(few), authors, atol=1e-6)


def test_divergence_stops_with_a_word(face_folder, tmp_path):
    wild = ("--data", face_folder, "--output", tmp_path, *QUICK, "--learning-rate", "1e38", "--loss", "bce")
    refuse(r": the loss is (nan|inf) at step \d: lower the learning rate", *wild, status=1)


def test_usage_errors_are_one_line(face_folder, tmp_path):
    touch(tmp_path, "file")
    faces, new = ("--data", face_folder, "--output"), tmp_path / "new"
    for arguments, reason in (
        (("--data", tmp_path), "/training: no such folder: it must hold df/ and real/"),
        ((*faces, tmp_path / "file" / "x"), "Not a directory"),
        ((*faces, new, "--weights", "none"), "none: no such weights"),
        (("--output", new, "--weights", ROOT / "weights/Meso4_DF.tflite"), "must be Keras weights"),
        ((*faces, new, "--balance", "x=2"), "--balance x: must be one of set0, set1"),
    ):
        refuse(reason, *arguments)
    for wrong in (
        "--steps 0", "--learning-rate -1", "--learning-rate nan", "--split-by-video 1", "--average 1",
        "--degrade -1", "--zoom 2", "--seed -1", "--seed x", "--model Meso5", "--balance set0",
        "--balance set0=-1", "--dropout 1",
    ):  # fmt: skip
        assert "error: argument --" in train(*wrong.split(), status=2).stderr
    assert not new.exists()


def test_wrong_usage_is_refused_before_tensorflow_is_imported(face_folder, tmp_path):
    code = """if True:
        import contextlib, sys
        from training import df_CNN
        for arguments in sys.argv[1:]:
            with contextlib.suppress(SystemExit):
                df_CNN.main(arguments.split())
        sys.exit("tensorflow" in sys.modules)"""
    missing = f"--data {face_folder} --weights none --output {tmp_path / 'x'}"
    process = start("-c", code, "--help", "--seed -1", f"--data {tmp_path}", missing)
    shown, error = process.communicate()
    assert process.returncode == 0, error
    assert error.count("no such") == 2
    assert "{Meso4,MesoInception4,Meso4Experts}" in shown


def test_a_full_disk_is_one_line(face_folder, tmp_path):
    words = ("--data", face_folder, "--output", tmp_path / "full", *SHORT)
    process = start(ROOT / SCRIPT, *words, full_at=100_000)
    assert re.fullmatch(r"df_CNN\.py: .*\n", process.communicate()[1])
    assert process.returncode == 1
    assert {path.name for path in (tmp_path / "full").iterdir()} <= {"recipe.json"}  # no half file


def test_experts_keep_their_names(tmp_path):
    command = ["--model", "Meso4Experts", "--weights", "Meso4", "--output", str(tmp_path)]
    plan = make_recipe(df_CNN.make_parser().parse_args(command), command)
    assert make_card(plan, [], [])["experts"] == ["Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures"]
