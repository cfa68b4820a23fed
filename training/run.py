"""What training/df_CNN.py does to train: find the data, train, report, write.

TensorFlow is imported last, so that faults of flags or data are reported at once.
"""

import os
import shutil
import time
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

import pipeline
from pipeline import Item
from training import cards, checkpoints, data, evaluation, views
from training.lock import hold_lock
from training.recipe import (
    RECIPE_FILE,
    Plan,
    Recipe,
    check_agreement,
    collect_given,
    read_plan,
    shorten_path,
    write_plan,
)
from weights import find_keras_weights, read_rule
from weights.scoring.metrics import evaluate_by_dataset, label_scores

if TYPE_CHECKING:
    from training import trainer


def train(arguments: Namespace, command: str) -> None:
    """Train, or resume a training, as the flags say; df_CNN.py lists what is written."""
    output = arguments.output
    plan = make_plan(arguments, command)
    images = find_data(plan, output if arguments.resume else None)
    check_shares(plan.recipe.shares, images[0])
    soft_labels = find_soft_labels(plan, images[0])
    if plan.recipe.views:
        print(f"views by make_views.py, {plan.recipe.view}: they are only mirrored")
    with hold_lock(output / ".lock"):
        found = checkpoints.find_checkpoints(output)
        if found and not arguments.resume:
            raise ValueError(f"{output}: holds a training already: --resume it, or name another --output")
        for unfinished in output.glob(".writing-*"):  # by a process that was killed
            shutil.rmtree(unfinished, ignore_errors=True)
        training, validation = (
            evaluation.load_data(items, plan.recipe.view, output, name)
            for items, name in zip(images, ("training", "validation"), strict=True)
        )
        report_copies(training, validation)
        training = data.soften_labels(training, soft_labels)
        plan = complete_plan(plan, arguments, training)
        if plan.split_by_video:
            data.write_held_out(output, Path(plan.data), images[1])
        else:
            (output / data.HELD_OUT).unlink(missing_ok=True)
        write_plan(output, plan)
        with pipeline.silence_native_stderr():
            from training import trainer
        from tensorflow.errors import OpError

        try:
            run = trainer.Trainer(plan.recipe, trainer.choose_strategy(), resumed=bool(found))
            state = restore_last(run, found)
            if arguments.resume:
                anew = f"{output}: no epoch done, begins anew"
                print(f"resumed after epoch {state.epoch}" if found else anew)
            run_epochs(run, plan, training, validation, state, output, arguments.tensorboard)
            finish(run, validation, output / plan.recipe.name)
        except OpError as error:  # memory is full
            raise MemoryError(str(error)) from error


def make_plan(arguments: Namespace, command: str) -> Plan:
    """Return the Plan that flags describe, or that of the training to resume, with which flags must agree."""
    given = collect_given(arguments)
    origins = {name: find_keras_weights(given[name]) for name in ("weights", "imitate") if name in given}
    given |= {name: os.path.abspath(origin.path) for name, origin in origins.items()}
    kept = read_plan(arguments.output) if arguments.resume else None
    if arguments.resume and not kept and checkpoints.find_checkpoints(arguments.output):
        raise ValueError(f"{arguments.output}: {RECIPE_FILE} is missing: train in another folder")
    note = views.read_note(Path(arguments.data or (kept.data if kept else "data")))
    if kept:
        check_agreement(kept.recipe, given, arguments.output)
        if note != kept.recipe.views:
            raise ValueError(
                f"{arguments.output}: was not trained on the views, or faces, that there are now"
            )
        if arguments.split_by_video not in (0, kept.split_by_video):
            raise ValueError(f"{arguments.output}: was trained with --split-by-video {kept.split_by_video:g}")
        moved = {
            name: os.path.abspath(path)
            for name in ("data", "soft_labels")
            if (path := getattr(arguments, name))
        }
        return kept._replace(**moved)
    check_views(note, given)
    view = next((origin.view for origin in origins.values()), pipeline.View())
    if note:
        view = pipeline.View(note["resampling"], note["zoom"])
    given["views"] = note
    given.setdefault("resample", view.resampling)
    given.setdefault("zoom", view.zoom)
    teacher = origins.get("imitate")
    if teacher and teacher.view.zoom != given["zoom"]:
        raise ValueError(f"--imitate {teacher.path}: needs zoom {teacher.view.zoom}, not {given['zoom']}")
    given.setdefault("name", given.get("model", Recipe().model))
    folder = os.path.abspath(arguments.data or "data")
    soft_labels = os.path.abspath(arguments.soft_labels) if arguments.soft_labels else ""
    return Plan(Recipe(**given), folder, arguments.split_by_video, command, soft_labels)


def complete_plan(plan: Plan, arguments: Namespace, training: data.FaceSet) -> Plan:
    """Return the Plan with the faces' fingerprint and the steps.

    Raises ValueError if a training to resume had other faces or another number of steps.
    """
    soft_labels = training.labels if plan.soft_labels else None
    found: dict[str, Any] = {"faces": data.fingerprint(training.images, soft_labels)}
    if arguments.epochs:
        found["steps"] = arguments.epochs * -(-len(training.images) // plan.recipe.batch_size)
    if plan.recipe.faces not in ("", found["faces"]):
        where = shorten_path(str(Path(plan.data, "training")))
        labels = " or soft labels" if plan.soft_labels else ""
        raise ValueError(f"{arguments.output}: was trained on other faces{labels} than those in {where} now")
    if plan.recipe.faces:
        check_agreement(plan.recipe, found, arguments.output)
    return plan._replace(recipe=plan.recipe._replace(**found))


def find_data(plan: Plan, resumed: Path | None) -> tuple[list[Item], list[Item]]:
    """Return the Items of training and validation; report aliases and doubts.

    `resumed`: the output folder of a training to resume, which knows what was held out.
    """
    folder = Path(plan.data)
    shown = shorten_path(plan.data)
    if not (folder / "training").is_dir():
        raise FileNotFoundError(
            f"{shown}/training: no such folder: {shown} must hold training/df, training/real, "
            "validation/df and validation/real"
        )
    training, aliases = data.list_images(folder / "training")
    held_out = data.read_held_out(resumed, folder) if resumed else []
    if (folder / "validation").is_dir():
        if plan.split_by_video:
            raise ValueError(f"--split-by-video: must not be given where there is {shown}/validation")
        validation, more = data.list_images(folder / "validation")
        aliases |= more
    elif held_out:
        known = set(held_out)
        training, validation = [image for image in training if image not in known], held_out
    elif plan.split_by_video:
        training, validation = data.split_by_video(training, plan.split_by_video, plan.recipe.seed)
    else:
        raise FileNotFoundError(
            f"{shown}/validation: no such folder: make it, with df/ and real/ of other videos than "
            "training, or use --split-by-video 0.1"
        )
    for name, label in aliases.items():
        print(f"folder {name} is taken for {label}")
    report_doubts(plan, training, validation)
    return training, validation


def find_soft_labels(plan: Plan, images: Sequence[Item]) -> dict[Path, float]:
    """Return {path of an image: soft label} of those of the images that the Plan's table names."""
    if not plan.soft_labels:
        return {}
    folder = Path(plan.data, "training")
    scores = data.read_soft_labels(Path(plan.soft_labels), folder, images)
    if not scores:
        table = shorten_path(plan.soft_labels)
        raise ValueError(f"--soft-labels {table}: names no image in {shorten_path(str(folder))}")
    print(f"soft labels: {len(scores)} of {len(images)} images; the others keep 0 or 1")
    return scores


def check_views(note: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise ValueError when flags do not suit the views that there are to train on."""
    if not note:
        return
    if "degrade" in given:
        raise ValueError("--degrade: must not be given for views: make_views.py has changed them already")
    for flag, name in (("resample", "resampling"), ("zoom", "zoom")):
        if given.get(flag, note[name]) != note[name]:
            raise ValueError(f"--{flag}: must be {note[name]}, as the views were made, not {given[flag]}")


def check_shares(shares: Mapping[str, float], images: Sequence[Item]) -> None:
    """Raise ValueError unless the shares name data sets among the images and leave some to draw."""
    found = {image.dataset for image in images}
    for dataset in shares:
        if dataset not in found:
            names = ", ".join(sorted(found - {""})) or "none"
            raise ValueError(f"--shares {dataset}: no such data set in training; there are: {names}")
    if not any(shares.get(dataset, 1.0) for dataset in found):
        raise ValueError("--shares: must leave a data set to draw")


def report_doubts(plan: Plan, training: Sequence[Item], validation: Sequence[Item]) -> None:
    """Report videos among the faces, very unequal classes, and videos in both training and validation."""
    folders = [Path(plan.data, name) for name in ("training", "validation")]
    videos, _ = pipeline.find_videos([folder for folder in folders if folder.is_dir()])
    if videos:
        where = shorten_path(str(videos[0][0].parent))
        evaluation.warn(
            f"{len(videos)} videos lie among the faces, in {where}: extract_faces.py cuts faces from them"
        )
    if not (plan.recipe.balance or plan.recipe.pairs) and (hint := data.suggest_balance(training)):
        print(hint)
    leaks = data.find_leaks(training, validation)
    if leaks:
        names = ", ".join(leaks[:5]) + (", ..." if len(leaks) > 5 else "")
        evaluation.warn(
            f"{len(leaks)} videos, or forgeries of them, are in both training and validation, "
            f"which flatters: {names}"
        )


def report_copies(training: data.FaceSet, validation: data.FaceSet) -> None:
    """Report faces that are in both parts or in both classes, whatever their names."""
    in_parts, in_classes = data.find_copies(training, validation)
    if in_parts:
        evaluation.warn(
            f"{pipeline.count(in_parts, 'face')} in both training and validation: figures will be too good"
        )
    if in_classes:
        evaluation.warn(f"{pipeline.count(in_classes, 'face')} in both df and real: a label must be wrong")


def restore_last(run: "trainer.Trainer", found: Sequence[Path]) -> checkpoints.TrainingState:
    """Load the newest undamaged checkpoint; return its TrainingState, or an initial one if there is none."""
    for path in reversed(found):
        try:
            return run.restore(path)
        except checkpoints.DamagedCheckpointError as error:
            evaluation.warn(error)
    if found:
        raise ValueError(f"{found[-1].parent}: no checkpoint is whole: train anew in another folder")
    return checkpoints.TrainingState()


def run_epochs(
    run: "trainer.Trainer",
    plan: Plan,
    training: data.FaceSet,
    validation: data.FaceSet,
    state: checkpoints.TrainingState,
    output: Path,
    tensorboard: bool,
) -> None:
    """Train to the end; print a line for each epoch, write what `trainer.train` does, and the curves."""
    from training import figures, trainer

    recipe = plan.recipe
    board = figures.open_board(output) if tensorboard else None

    def keep_best(epoch: int, scores: np.ndarray) -> None:
        card = cards.make_card(plan, training, validation)
        judged = label_scores(validation.images, scores, card["threshold"])
        card |= {"best_epoch": epoch, "validation": evaluate_by_dataset(judged, read_rule(card))}
        cards.write_best(run.scorer, output / recipe.name, card)

    def watch(steps: Iterable[int]) -> Iterable[int]:
        return tqdm(steps, unit="step", disable=None, leave=False)

    epochs = -(-recipe.steps // -(-len(training.images) // recipe.batch_size))
    history, started, done = list(state.history), time.monotonic(), run.steps_done
    for row, better in trainer.train(run, training, validation, output, keep_best, state, watch):
        history.append(row)
        speed = (row["step"] - done) * recipe.batch_size / (time.monotonic() - started)
        print(format_epoch(row, epochs, speed, better), flush=True)
        if board:
            figures.write_board(board, row)
        started, done = time.monotonic(), row["step"]
    figures.draw_curves(history, output / "curves.png")


def finish(run: "trainer.Trainer", validation: data.FaceSet, stem: Path) -> None:
    """Export the best weights for scoring, evaluate them and report."""
    run.scorer.load(f"{stem}.weights.h5")
    scores = run.scorer.predict(validation.faces, 75)[:, 0]
    card = cards.write_litert(run.scorer, stem)
    judged = label_scores(validation.images, scores, card["threshold"])
    evaluation.report(judged, read_rule(card), run.recipe.view, stem.with_name("evaluation.png"))
    print(f"wrote {stem}.tflite, .weights.h5 and .json, history.csv, curves.png and evaluation.png")


def format_epoch(row: dict[str, Any], epochs: int, speed: float, better: bool) -> str:
    name = "accuracy" if "accuracy" in row else "explained"
    return (
        f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.4f}, {name} {row[name]:.3f}; "
        f"validation: loss {row['validation_loss']:.4f}, accuracy {row['validation_accuracy']:.3f}, "
        f"balanced {row['validation_balanced_accuracy']:.3f}, AUC {row['validation_auc']:.4f}"
        f"{' (best)' if better else ''}; {speed:.0f} images/s"
    )
