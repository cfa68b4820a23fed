"""What training/df_CNN.py does with its arguments: train, or evaluate, and tell of it."""

import datetime
import functools
import json
import platform
import shlex
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

# isort: split
import keras
import numpy as np
import tensorflow
from tensorflow.errors import OpError  # noqa: F401  (df_CNN.py tells of it)
from tqdm import tqdm

import pipeline
from pipeline import Item
from training import data, figures, trainer
from weights import Weights, find_weights, load_predictor, name_card, write_weights
from weights.metrics import choose_threshold, evaluate_by_dataset, label_scores
from weights.scores import Result


def train(arguments: Namespace) -> None:
    output, stem = arguments.output, arguments.output / arguments.name
    training_images, validation_images = find_data(arguments)
    weights = find_h5(arguments.weights) if arguments.weights else None
    teacher = find_h5(arguments.imitate) if arguments.imitate else None
    origin = weights or teacher
    resample = arguments.resample or (origin.resampling if origin else "nearest")
    checkpoints = trainer.find_checkpoints(output)
    if checkpoints and not arguments.resume:
        raise ValueError(f"{output}: holds a training already: --resume it, or name another --output")
    output.mkdir(parents=True, exist_ok=True)

    strategy = trainer.choose_strategy()
    chief = trainer.is_chief(strategy)
    if chief:
        for unfinished in output.glob(".writing-*"):  # by a process that was killed
            shutil.rmtree(unfinished, ignore_errors=True)
    say = print if chief else lambda *_, **__: None
    training = load_data(training_images, resample, output, "training", say)
    validation = load_data(validation_images, resample, output, "validation", say)
    per_epoch = -(-len(training.images) // arguments.batch_size)
    recipe = trainer.Recipe(
        model=arguments.model,
        steps=arguments.epochs * per_epoch if arguments.epochs else arguments.steps,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        schedule=arguments.schedule,
        loss=arguments.loss,
        balance=arguments.balance,
        seed=arguments.seed,
        patience=arguments.patience,
        resample=resample,
        weights=str(weights.path) if weights else "",
        freeze=arguments.freeze,
        imitate=str(teacher.path) if teacher else "",
        name=arguments.name,
        faces=data.fingerprint(training.images),
    )
    run = trainer.Trainer(recipe, strategy)
    state = restore_last(run, checkpoints)
    if run.agree(state.epoch) != state.epoch:
        raise ValueError(f"{output}: to resume, all workers must see the folder the first one writes to")
    if arguments.resume:
        say(
            f"resumed after epoch {state.epoch}"
            if checkpoints
            else f"{output}: nothing to resume, begins anew"
        )
    board = open_board(output) if arguments.tensorboard and chief else None

    def keep_best(epoch: int, scores: np.ndarray) -> None:
        card = make_card(recipe, training, validation)
        judged = label_scores(validation.images, scores, card["threshold"])
        card |= {"best_epoch": epoch, "validation": evaluate_by_dataset(judged, card["threshold"])}
        write_weights(run.scorer, stem, card)

    def watch(steps: Iterable[int]) -> Iterable[int]:
        return tqdm(steps, unit="step", disable=None if chief else True, leave=False)

    history, started, done = list(state.history), time.monotonic(), run.steps_done
    for row, better in trainer.train(run, training, validation, output, keep_best, state, watch):
        if not chief:
            continue
        history.append(row)
        speed = (row["step"] - done) * arguments.batch_size / (time.monotonic() - started)
        print(format_epoch(row, -(-recipe.steps // per_epoch), speed, better), flush=True)
        if board:
            write_board(board, row)
        started, done = time.monotonic(), row["step"]
    if not chief:
        return
    figures.draw_curves(history, output / "curves.png")
    run.scorer.load(f"{stem}.weights.h5")
    scores = run.scorer.predict(validation.faces, 75)[:, 0]
    threshold = find_weights(f"{stem}.tflite").threshold
    report(label_scores(validation.images, scores, threshold), threshold, output / "evaluation.png")
    print(f"wrote {stem}.tflite, .weights.h5 and .json, history.csv, curves.png and evaluation.png")


def evaluate(arguments: Namespace) -> None:
    weights = find_weights(arguments.weights)
    resample = arguments.resample or weights.resampling
    if arguments.split_by_video:
        _, images = find_data(arguments)
    else:
        images, _ = data.list_images(arguments.data / "validation")
    arguments.output.mkdir(parents=True, exist_ok=True)
    face_set = load_data(images, resample, arguments.output, "validation", print)
    predict = load_predictor(weights)
    parts = [predict(face_set.faces[i : i + 32]) for i in range(0, len(face_set.faces), 32)]
    scores, threshold = np.concatenate(parts), weights.threshold
    if arguments.calibrate:
        threshold = calibrate(weights.path, face_set.images, scores)
    figure = arguments.output / f"evaluation-{weights.path.name.partition('.')[0]}.png"
    report(label_scores(face_set.images, scores, threshold), threshold, figure)
    print(f"wrote {figure}")


def calibrate(path: Path, images: Sequence[Item], scores: np.ndarray) -> float:
    """Store in the card beside weights the threshold that does best on labelled faces; return it."""
    card_path = name_card(path)
    card = json.loads(card_path.read_bytes()) if card_path.is_file() else {"sha256": {}}
    if path.name not in card["sha256"]:
        raise FileNotFoundError(f"{path}: has no card to store a threshold in: weights/convert.py makes one")
    threshold = choose_threshold(images, scores)
    print(f"{card_path}: threshold {card['threshold']:g} becomes {threshold:g}")
    card["threshold"] = threshold
    card["calibrated_on"] = data.count_faces(images)
    card["validation"] = evaluate_by_dataset(label_scores(images, scores, threshold), threshold)
    pipeline.write_atomically(card_path, lambda part: part.write_text(json.dumps(card, indent=1) + "\n"))
    return threshold


def find_data(arguments: Namespace) -> tuple[list[Item], list[Item]]:
    """Return the Items of training and validation; tell of aliases, splits and leaks."""
    training, aliases = data.list_images(arguments.data / "training")
    if not (arguments.data / "validation").is_dir():
        if not arguments.split_by_video:
            raise FileNotFoundError(
                f"{arguments.data / 'validation'}: no such folder: make it, of other videos than "
                "training, or use --split-by-video 0.1"
            )
        training, validation = data.split_by_video(training, arguments.split_by_video, arguments.seed)
    elif arguments.split_by_video:
        raise ValueError(f"--split-by-video: {arguments.data / 'validation'} is there already")
    else:
        validation, more = data.list_images(arguments.data / "validation")
        aliases |= more
    for name, label in aliases.items():
        print(f"folder {name} is taken for {label}")
    leaks = data.find_leaks(training, validation)
    if leaks:
        names = ", ".join(leaks[:5]) + (", ..." if len(leaks) > 5 else "")
        warn(f"{len(leaks)} videos are in both training and validation, which flatters: {names}")
    return training, validation


def load_data(
    images: Sequence[Item], resample: str, scratch: Path, name: str, say: Callable[..., None]
) -> data.FaceSet:
    """Return the FaceSet of the images that can be read; tell of the others, and count."""
    watch = functools.partial(tqdm, desc=f"reading {name}", unit="image", disable=None, delay=1, leave=False)
    face_set, failed = data.load_faces(images, resample, scratch, watch)
    for path, reason in failed:
        warn(f"skipped {path}: {reason}")
    for label in pipeline.LABELS:
        if not any(image.label == label for image in face_set.images):
            raise ValueError(f"{name}: no image of class {label} can be read")
    counts = data.count_faces(face_set.images).items()
    listed = ", ".join(f"{key} {n['images']} ({n['videos']} videos)" for key, n in counts)
    say(f"{name}: {len(face_set.images)} images: {listed}", flush=True)
    return face_set


def find_h5(name: str) -> Weights:
    return find_weights(name, (".weights.h5", ".h5"))


def restore_last(run: trainer.Trainer, checkpoints: Sequence[Path]) -> trainer.TrainingState:
    """Take up the newest checkpoint that is whole; return its TrainingState, or that of a beginning."""
    for path in reversed(checkpoints):
        try:
            return run.restore(path)
        except trainer.DamagedCheckpointError as error:
            warn(error)
    if checkpoints:
        raise ValueError(f"{checkpoints[-1].parent}: no checkpoint is whole: train anew in another folder")
    return trainer.TrainingState()


def make_card(recipe: trainer.Recipe, training: data.FaceSet, validation: data.FaceSet) -> dict[str, Any]:
    return {
        "resampling": recipe.resample,
        "threshold": 0.5,
        "trained_on": data.count_faces(training.images),
        "validated_on": data.count_faces(validation.images),
        "recipe": recipe._asdict(),
        "command": shlex.join(["python3", *sys.argv]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tensorflow.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
    }


def format_epoch(row: dict[str, Any], epochs: int, speed: float, better: bool) -> str:
    name = "accuracy" if "accuracy" in row else "explained"
    return (
        f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.4f}, {name} {row[name]:.3f}; "
        f"validation: loss {row['validation_loss']:.4f}, accuracy {row['validation_accuracy']:.3f}, "
        f"balanced {row['validation_balanced_accuracy']:.3f}, AUC {row['validation_auc']:.4f}"
        f"{' (best)' if better else ''}; {speed:.0f} images/s"
    )


def report(scores: Sequence[Result], threshold: float, figure: Path) -> None:
    """Print the figures per dataset, image and video level, and draw them."""
    columns = ("accuracy_df", "accuracy_real", "balanced_accuracy", "auc", "eer")
    print("dataset      level  count  df right  real right  balanced    AUC    EER")
    for dataset, levels in evaluate_by_dataset(scores, threshold).items():
        for level, found in levels.items():
            shown = [f"{found[key]:.3f}" if key in found else "-" for key in columns]
            print(
                f"{dataset or '-':<10}  {level}  {found.get('count', ''):>5}  {shown[0]:>8}  {shown[1]:>10}  "
                f"{shown[2]:>8}  {shown[3]:>5}  {shown[4]:>5}"
            )
    print(f"A score is P(real): 1 = real, 0 = df; below {threshold:g} is called df.")
    figures.draw_evaluation(scores, threshold, figure)


def open_board(output: Path) -> Any:
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        raise ValueError("--tensorboard needs: pip install tensorboard") from None
    return tensorflow.summary.create_file_writer(str(output / "logs"))


def write_board(board: Any, row: dict[str, Any]) -> None:
    with board.as_default():
        for name, value in row.items():
            if name not in ("epoch", "step"):
                tensorflow.summary.scalar(name, value, step=row["epoch"])
    board.flush()


def warn(text: object) -> None:
    print(f"df_CNN.py: warning: {text}", file=sys.stderr)
