"""What training/df_CNN.py does to evaluate: score labelled faces, report, choose a threshold."""

import functools
import itertools
import json
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import pipeline
from pipeline import Item, View
from training import calibration, data
from weights import (
    WEIGHTS_FOLDER,
    Predict,
    Rule,
    Weights,
    find_weights,
    load_predictor,
    name_card,
    name_stem,
    read_rule,
)
from weights.scoring.evidence import measure_normal
from weights.scoring.metrics import choose_threshold, evaluate_by_dataset, label_scores
from weights.scoring.scores import BATCH_SIZE, Result

COLUMNS = ("accuracy_df", "accuracy_real", "balanced_accuracy", "auc", "eer", "uncertain")
MAPPED = 100  # real faces whose maps of evidence show what is normal


def evaluate(arguments: Namespace) -> None:
    """Evaluate weights on data/validation, or on what their training held out; calibrate them if asked."""
    weights = find_weights(arguments.weights)
    beside = weights.path.parent
    images = find_validation(Path(arguments.data or "data"), beside)
    output = arguments.output
    if output is None:  # beside the weights; but the program's own folder is not for results
        output = Path("trained") if beside.resolve() == WEIGHTS_FOLDER.resolve() else beside
    output.mkdir(parents=True, exist_ok=True)
    view = View(
        getattr(arguments, "resample", weights.view.resampling), getattr(arguments, "zoom", weights.view.zoom)
    )
    if arguments.calibrate and view != weights.view:
        raise ValueError(f"--calibrate: {weights.path} needs {weights.view}, not {view}")
    face_set = load_data(images, view, output, "validation")
    predict = load_predictor(weights)
    starts = range(0, len(face_set.faces), BATCH_SIZE)
    parts = [predict(face_set.faces[i : i + BATCH_SIZE]) for i in starts]
    scores, rule = np.concatenate(parts), weights.rule
    if arguments.calibrate:
        rule = calibrate(weights, face_set, scores, predict)
    figure = name_figure(output, weights.path)
    report(label_scores(face_set.images, scores, rule.threshold), rule, view, figure)
    print(f"wrote {figure}")


def load_data(images: Sequence[Item], view: View, scratch: Path, name: str) -> data.FaceSet:
    """Return the FaceSet of the images that can be read; report the others, and count."""
    watch = functools.partial(tqdm, desc=f"reading {name}", unit="image", disable=None, delay=1, leave=False)
    face_set, failed = data.load_faces(images, view, scratch, watch)
    for path, reason in failed:
        warn(f"skipped {path}: {reason}")
    for label in pipeline.LABELS if view.zoom < pipeline.CROP_ZOOM else ():
        own = [image for image in face_set.images if image.label == label]
        whole = sum(pipeline.read_zoom(image.path) is None for image in own)
        if whole:
            print(
                f"{name}: {whole} of {len(own)} {label} faces do not say how wide they were cut: taken whole"
            )
    for label in pipeline.LABELS:
        if not any(image.label == label for image in face_set.images):
            raise ValueError(f"{name}: no image of class {label} can be read")
    counts = data.count_faces(face_set.images).items()
    listed = ", ".join(f"{key} {n['images']} ({n['videos']} videos)" for key, n in counts)
    print(f"{name}: {len(face_set.images)} images: {listed}", flush=True)
    return face_set


def measure(face_set: data.FaceSet, scores: np.ndarray, loss: str) -> dict[str, float]:
    """Return the figures of an epoch's validation: loss, accuracy, balanced accuracy and AUC per image.

    The last two are means over the datasets that have both classes, so that the largest does not
    decide alone.
    """
    real = face_set.labels[:, 0].astype(float)
    safe = np.clip(scores.astype(float), 1e-7, 1 - 1e-7)
    losses = {
        "mse": np.mean((scores - real) ** 2),
        "bce": -np.mean(real * np.log(safe) + (1 - real) * np.log(1 - safe)),
    }
    found = evaluate_by_dataset(label_scores(face_set.images, scores, 0.5), Rule())
    return {
        "validation_loss": float(losses[loss]),
        "validation_accuracy": found["all"]["image"]["accuracy"],
        "validation_balanced_accuracy": found["mean"]["image"]["balanced_accuracy"],
        "validation_auc": found["mean"]["image"]["auc"],
    }


def find_validation(folder: Path, beside: Path) -> list[Item]:
    """Return the Items of folder/validation, or, without it, what the training of these weights held out."""
    if not (folder / "validation").is_dir() and (found := data.read_held_out(beside, folder)):
        return found
    return data.list_images(folder / "validation")[0]


def name_figure(folder: Path, weights: Path) -> Path:
    """Return a path for the figure of an evaluation at which there is nothing yet."""
    stem = f"evaluation-{name_stem(weights)}"
    names = (f"{stem}-{i}.png" if i > 1 else f"{stem}.png" for i in itertools.count(1))
    return next(folder / name for name in names if not (folder / name).exists())


def calibrate(weights: Weights, face_set: data.FaceSet, scores: np.ndarray, predict: Predict) -> Rule:
    """Store in the weights' card what labelled faces say of them; return the Rule.

    The threshold that does best, the bounds of the verdict "uncertain", the figures, and what is normal in
    maps of evidence.
    """
    if not weights.card:
        raise FileNotFoundError(
            f"{weights.path}: has no card to store a threshold in: weights/convert.py makes one"
        )
    images, card, card_path = face_set.images, dict(weights.card), name_card(weights.path)
    threshold = choose_threshold(images, scores)
    print(f"{card_path}: threshold {card['threshold']:g} becomes {threshold:g}")
    card |= {"threshold": threshold, "calibrated_on": data.count_faces(images)}
    card.pop("calibration", None)
    if bounds := calibration.calibrate(images, scores, threshold, weights.view):
        card["calibration"] = bounds
        video = bounds["video"]
        print(f"verdict on videos: deepfake below {video['lower']:.3f}, real above {video['upper']:.3f}")
    else:
        warn('too few videos for the verdict "uncertain": 19 real and 9 forged are needed, of 3 faces each')
    rule = read_rule(card)
    card["validation"] = evaluate_by_dataset(label_scores(images, scores, threshold), rule)
    for reason in find_faults(card["validation"]):
        warn(f"{reason}: these weights do not suit these faces, whatever the threshold")
    chosen = pipeline.pick_evenly(np.flatnonzero(face_set.labels[:, 0]).tolist(), MAPPED)
    card["maps"] = measure_normal(face_set.faces[chosen], predict)
    pipeline.write_atomically(card_path, lambda part: part.write_text(json.dumps(card, indent=1) + "\n"))
    return rule


def find_faults(found: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """Return the reasons, from the figures of `evaluate_by_dataset`, why no threshold can help."""
    image = found["all"]["image"]
    faults = [
        f"no face of class {x} is classified right" for x in pipeline.LABELS if not image[f"accuracy_{x}"]
    ]
    auc = found["mean"]["image"]["auc"]
    return [f"AUC {auc:.3f} is below 0.5, worse than chance", *faults] if auc < 0.5 else faults


def report(scores: Sequence[Result], rule: Rule, view: View, figure: Path) -> None:
    """Print the figures per dataset, image and video level, and draw them."""
    from training import figures

    by_dataset = evaluate_by_dataset(scores, rule)
    width = max(10, *map(len, by_dataset))
    print(f"{'dataset':<{width}}  level  count  df right  real right  balanced    AUC    EER  uncertain")
    for dataset, levels in by_dataset.items():
        for level, found in levels.items():
            print(format_row(dataset, level, found, width))
    below = f"below {rule.threshold:g} a face is called df, below {rule.video_threshold:g} a video"
    if rule.video_threshold == rule.threshold:
        below = f"a face or video below {rule.threshold:g} is called df"
    print(f"A score says how real a face looks: 1 = real, 0 = df; {below}.")
    figures.draw_evaluation(scores, rule, view, figure)


def format_row(dataset: str, level: str, found: dict[str, Any], width: int) -> str:
    shown = [f"{found[key]:.3f}" if key in found else "-" for key in COLUMNS]
    return (
        f"{dataset or '-':<{width}}  {level}  {found.get('count', ''):>5}  {shown[0]:>8}  {shown[1]:>10}  "
        f"{shown[2]:>8}  {shown[3]:>5}  {shown[4]:>5}  {shown[5]:>9}"
    )


def fail(error: Exception) -> int:
    """Print why a command of training/ failed; return its exit status: 2 for wrong usage or unfit data."""
    unfit = (FileNotFoundError, FileExistsError, NotADirectoryError, PermissionError, ValueError)
    if isinstance(error, unfit):
        return pipeline.fail(2, " ".join(str(error).split()))
    return pipeline.fail(1, (str(error).strip() or type(error).__name__).splitlines()[0])


def warn(text: object) -> None:
    print(f"{os.path.basename(sys.argv[0])}: warning: {text}", file=sys.stderr)
