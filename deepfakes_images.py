"""Score faces in images and videos: 1 = natural, 0 = deepfake/f2f.

Without arguments: every image in test_images and its subfolders. Images are taken for face crops, as
extract_faces.py writes them, or, with --align, for photographs, whose faces are found first. In videos
the faces are found as extract_faces.py finds them; a video's score is the mean of its faces', and where
there are several people the lowest of theirs. Prints a row per image when there are few, a row per
folder and per video, the average score and the percentage classified as deepfake/f2f; where folders are
named df and real, also how often that is right.

Exit status: 0 all scored, 1 some were not (unreadable, or no face), 2 nothing to score or wrong usage.
"""

import argparse
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

import pipeline
from pipeline import Item
from weights import Predict, Weights, find_weights, load_predictor
from weights.figures import map_evidence, plot_evidence, plot_scores, plot_videos
from weights.media import score_file, try_annotating
from weights.metrics import evaluate_scores
from weights.scores import (
    MIN_FACES_PER_PERSON,
    Result,
    average_people,
    group_by_folder,
    load_scored_face,
    score_images,
    summarize,
    verdict_of,
)
from weights.table import read_scores, write_csv, write_json
from weights.visualize import plot_activations, plot_units

if TYPE_CHECKING:
    from classifiers import Classifier

Files = list[tuple[Item, str]]  # see pipeline.find_media

ROWS_SHOWN = 50  # images: up to so many get a row each
SAVE_EVERY = 10  # seconds
ACTIVATIONS, UNITS = "network-activations", "network-units"  # figures of the set
FIGURE_SUFFIXES = (".png", ".jpg", ".pdf", ".svg")
MEANING = "A score is the probability that a face is real: 1 = natural, 0 = deepfake/f2f."
BAR = {"disable": None, "leave": False, "delay": 1}


def main() -> int:
    pipeline.open_streams()
    arguments = parse_arguments()
    files = pipeline.find_media(arguments.paths)
    if not any(os.path.lexists(item.path) for item, _ in files):
        return fail(2, f"nothing to score: no image or video in {', '.join(map(str, arguments.paths))}")
    searched = [(item, name) for item, name in files if arguments.align or pipeline.is_video(item.path)]
    images = [] if arguments.align else [item for item, _ in files if not pipeline.is_video(item.path)]
    if arguments.plot and images and searched:
        return fail(2, "--plot: wanted images or videos, not both")
    taken = {os.path.realpath(item.path): "what is to be scored" for item, _ in files}
    for target in list_targets(arguments, files):
        if (real := os.path.realpath(target)) in taken:
            return fail(2, f"{target}: would overwrite {taken[real]}: name another folder")
        taken[real] = "another output"
    try:
        weights = find_weights(arguments.weights)
        if arguments.threshold is not None:
            weights = weights._replace(threshold=arguments.threshold)
        predict = load_predictor(make_absolute(weights), load_keras)
        explainer = load_explainer(arguments.weights) if arguments.explain else None
        scores = read_known(arguments, weights, files)  # filled as it goes
    except (OSError, ValueError) as error:
        return fail(2, error)

    order = [str(item.path) for item in images] + [str(item.path) for item, _ in searched]
    save, status = make_saver(arguments, weights, scores, order), 0
    try:
        score_crops(arguments, images, weights, predict, scores, save)
        score_videos(arguments, searched, weights, scores, save)
        if arguments.annotate:
            annotate_images(arguments.annotate, files, scores, weights.threshold)
        if explainer:
            explain(arguments.explain, files, scores, weights, explainer)
        if arguments.plot:
            plot = plot_videos if searched else plot_scores
            plot([scores[path] for path in order], weights.threshold, arguments.plot)
    except (OSError, ValueError, ImportError, MemoryError) as error:
        status = fail(1, pipeline.describe_error(error))
    except BaseException:  # stopped, or worse: what is done is done
        save(now=True)
        raise
    scored = [scores[path] for path in order if path in scores]
    summary = build_summary(arguments, scored, weights)
    try:
        save(now=True)
    except OSError as error:
        status = fail(1, f"cannot write: {error}")
    print_report(scored, summary)
    return status or int(any(s.score is None or s.error for s in scored))


def make_absolute(weights: Weights) -> Weights:
    """Return the Weights as other processes, wherever they run, find them."""
    return weights._replace(path=Path(os.path.abspath(weights.path)))


def load_keras(path: Path) -> "Classifier":
    with pipeline.silence_native_stderr():
        from classifiers import load_classifier  # imports TensorFlow: seconds

    return load_classifier(path)


def load_explainer(name: str) -> "Classifier":
    """Return the Keras classifier of the weights called `name`: `.tflite` cannot tell of its layers."""
    name = name.removesuffix(".tflite")
    return load_keras(find_weights(name, (".weights.h5", ".h5")).path)


def list_targets(arguments: Namespace, files: Files) -> list[Path]:
    """Return the files that are going to be written."""
    tables = [target for target in (arguments.csv, arguments.json, arguments.plot) if target]
    copies = [name_copy(arguments.annotate, item, name) for item, name in files if arguments.annotate]
    names = [*(name for _, name in files), ACTIVATIONS, UNITS] if arguments.explain else []
    return tables + copies + [arguments.explain / f"{name}.png" for name in names]


def read_known(arguments: Namespace, weights: Weights, files: Files) -> dict[str, Result]:
    """Return {path: Result} of what the run to --resume has scored."""
    tables = [table for table in (arguments.json, arguments.csv) if table and table.exists()]
    if not arguments.resume or not tables:
        return {}
    table = tables[0]
    scores, settings = read_scores(table)
    if scores and settings != describe_settings(arguments, weights):
        raise ValueError(
            f"{table}: was scored with {settings}, not {describe_settings(arguments, weights)}: "
            "resume with the same"
        )
    items = {str(item.path): (item, name) for item, name in files}
    known = {}
    for path, s in scores.items():
        if path not in items or s.error:
            continue
        item, name = items[path]
        searched = "photo" if arguments.align else "image"
        copied = s.kind == "image" or not arguments.annotate
        copied = copied or name_copy(arguments.annotate, item, name).exists()
        if copied and s.kind == ("video" if pipeline.is_video(item.path) else searched):
            verdict = s.verdict if s.score is None else verdict_of(s.score, weights.threshold)
            known[path] = s._replace(item=item, verdict=verdict)
    return known


def describe_settings(arguments: Namespace, weights: Weights) -> str:
    """Return what the scores depend on, in one line."""
    names = ("align", "frames", "every", "everyone", "min_size")
    search = ", ".join(f"{name} {getattr(arguments, name)}" for name in names)
    digest = pipeline.compute_sha256(weights.path)[:8]
    return f"{weights.path.name} {digest}, {weights.resampling}, threshold {weights.threshold:g}, {search}"


def make_saver(
    arguments: Namespace, weights: Weights, scores: dict[str, Result], order: list[str]
) -> Callable[..., None]:
    """Return the function that writes --csv and --json now and then, for --resume, or right now."""
    saved = time.monotonic()

    def save(now: bool = False) -> None:
        nonlocal saved
        if not now and time.monotonic() - saved < SAVE_EVERY:
            return
        so_far = [scores[path] for path in order if path in scores]
        if arguments.csv:
            write_csv(arguments.csv, so_far, describe_settings(arguments, weights))
        if arguments.json:
            write_json(arguments.json, so_far, build_summary(arguments, so_far, weights))
        saved = time.monotonic()

    return save


def score_crops(
    arguments: Namespace,
    images: list[Item],
    weights: Weights,
    predict: Predict,
    scores: dict[str, Result],
    save: Callable[[], None],
) -> None:
    todo = [item for item in images if str(item.path) not in scores]
    found = score_images(todo, predict, weights.resampling, weights.threshold, arguments.batch_size)
    for s in tqdm(found, total=len(todo), unit="image", **BAR):
        scores[str(s.item.path)] = s
        save()
    # of many, some are enough to tell
    seen = [item for item in todo if scores[str(item.path)].score is not None][:100]
    odd = sum(not pipeline.is_square(item.path) for item in seen)
    if odd:
        print(
            f"hint: {odd} of {len(seen)} images are not square, so hardly face crops: "
            "--align finds the faces in photographs",
            file=sys.stderr,
        )


def score_videos(
    arguments: Namespace,
    searched: Files,
    weights: Weights,
    scores: dict[str, Result],
    save: Callable[[], None],
) -> None:
    """Score what faces are to be found in first, a row each as it gets ready."""
    if not searched:
        return
    todo = [(item, name) for item, name in searched if str(item.path) not in scores]
    options = {
        "weights": make_absolute(weights),
        "search": pipeline.FaceOptions(
            arguments.frames, arguments.every, everyone=arguments.everyone, min_size=arguments.min_size
        ),
        "load_keras": load_keras,
        "batch_size": arguments.batch_size,
    }
    calls = [
        (
            item._replace(path=Path(os.path.abspath(item.path))),
            arguments.annotate and Path(os.path.abspath(name_copy(arguments.annotate, item, name))),
        )
        for item, name in todo
    ]
    found = pipeline.run_jobs(score_file, calls, options, arguments.jobs, arguments.dask)
    print(f" score  faces  %deepfake  verdict   {'photograph' if arguments.align else 'video'}")
    bar = tqdm(total=len(searched), unit="file", **BAR)
    for item, _ in searched:
        path = str(item.path)
        if path not in scores:
            died = Result(item, None, "error", pipeline.PROCESS_DIED, "photo" if arguments.align else "video")
            scores[path] = (next(found) or died)._replace(item=item)
        tqdm.write(format_video(scores[path], weights.threshold))
        bar.update()
        save()
    bar.close()
    print()


def name_copy(folder: Path, item: Item, name: str) -> Path:
    """Return where the annotated copy of a file belongs."""
    return folder / f"{name}{'.mp4' if pipeline.is_video(item.path) else '.png'}"


def annotate_images(folder: Path, files: Files, scores: dict[str, Result], threshold: float) -> None:
    for item, name in files:
        s = scores[str(item.path)]
        if s.kind == "image" and s.score is not None:
            error = try_annotating(s, name_copy(folder, item, name), threshold)
            scores[str(item.path)] = s._replace(error=error)


def explain(
    folder: Path, files: Files, scores: dict[str, Result], weights: Weights, classifier: "Classifier"
) -> None:
    """Write the maps of evidence of every image and of every video's lowest face, and figures of the set."""
    groups: dict[str, list[np.ndarray]] = {}
    for item, name in tqdm(files, unit="map", **BAR):
        s = scores[str(item.path)]
        if s.score is None:
            continue
        lowest = min(s.faces, key=lambda face: face.score, default=None)
        face = load_scored_face(s, lowest, weights.resampling)
        if face is None:  # gone since
            continue
        score = lowest.score if lowest else s.score
        verdict = verdict_of(score, weights.threshold)
        when = f", at {lowest.time:.2f} s" if lowest and s.kind == "video" else ""
        title = f"{pipeline.printable(item.path.name)}{when}: {score:.3f}, {verdict}"
        evidence = map_evidence(face, classifier.compute_logits)
        plot_evidence(face, evidence, title, folder / f"{name}.png")
        groups.setdefault(item.label or verdict, []).append(face)
    means = {
        group: classifier.average_activations(np.stack(faces)) for group, faces in sorted(groups.items())
    }
    if means:
        plot_activations(means, folder / f"{ACTIVATIONS}.png")
        plot_units(*classifier.excite_units(), folder / f"{UNITS}.png")


def build_summary(arguments: Namespace, scores: list[Result], weights: Weights) -> dict[str, Any]:
    """Return what --json holds beside the scores."""
    images = [s for s in scores if s.kind == "image"]
    searched = [s for s in scores if s.kind != "image"]
    summary = summarize(images, weights.threshold) | {
        "threshold": weights.threshold,
        "weights": str(weights.path),
        "resampling": weights.resampling,
        "settings": describe_settings(arguments, weights),
    }
    summary["accuracy"] = evaluate_scores(images, weights.threshold)
    summary["folders"] = {
        folder: summarize(members, weights.threshold) for folder, members in group_by_folder(images).items()
    }
    if searched:
        found = evaluate_scores(searched, weights.threshold)
        accuracy = {"accuracy": found["image"]} if found else {}  # each is one file
        summary["videos"] = summarize(searched, weights.threshold) | accuracy
    return summary


def print_report(scores: list[Result], summary: dict[str, Any]) -> None:
    images = [s for s in scores if s.kind == "image"]
    if images and len(images) <= ROWS_SHOWN:
        print(" score  verdict   image")
        for s in images:
            print(f"{format_score(s.score)}  {s.verdict:<8}  {pipeline.printable(s.item.path)}")
        print()
    for s in scores:
        if s.error:
            skipped = "skipped " if s.score is None else ""
            print(f"{skipped}{pipeline.printable(s.item.path)}: {s.error}", file=sys.stderr)
    if images:
        print("images  average  %deepfake  verdict   folder")
        for folder, found in summary["folders"].items():
            print(f"{found['images']:>6}  {format_found(found)}  {pipeline.printable(folder)}")
        print()
        print_summary(summary, "images")
        for level, found in summary["accuracy"].items():
            if level == "video" and found["count"] == summary["accuracy"]["image"]["count"]:
                continue  # an image each: the same again
            print(f"Accuracy per {level}: {format_accuracy(found)}")
    if "videos" in summary:
        noun = "photographs" if any(s.kind == "photo" for s in scores) else "videos"
        print_summary(summary["videos"], noun)
        if "accuracy" in summary["videos"]:
            print(f"Accuracy over {noun}: {format_accuracy(summary['videos']['accuracy'])}")
    print(
        f"{MEANING} Below {summary['threshold']:g} is called a deepfake "
        f"({pipeline.printable(Path(summary['weights']).name)}, resizing: {summary['resampling']}).",
        flush=True,
    )


def print_summary(found: dict[str, Any], noun: str) -> None:
    if found["scored"]:
        print(f"Average score: {found['average_score']:.4f}")
        deepfakes = round(found["deepfake_percent"] * found["scored"] / 100)
        print(
            f"Classified as deepfake/f2f: {found['deepfake_percent']:.1f} % "
            f"({deepfakes} of {found['scored']} {noun})"
        )
    if found["no_face"]:
        print(f"No face found: {found['no_face']} of {found['images']} {noun}")
    if found["skipped"]:
        print(f"Skipped: {found['skipped']} of {found['images']} {noun} could not be scored")


def format_video(s: Result, threshold: float) -> str:
    """Return the row of a video or photograph, with one more for each person where there are several."""
    people = average_people(s.faces)
    forged = sum(face.score < threshold for face in s.faces)
    share = f"{100 * forged / len(s.faces):.1f}" if s.faces else "-"
    count = "-" if s.score is None and s.error else len(s.faces)
    rows = [
        f"{format_score(s.score)}  {count:>5}  {share:>9}  {s.verdict:<8}  {pipeline.printable(s.item.path)}"
    ]
    for person, (mean, number) in people.items() if len(people) > 1 else ():
        verdict = verdict_of(mean, threshold)
        few = "" if number >= MIN_FACES_PER_PERSON or s.kind == "photo" else ", too few to decide"
        rows.append(f"{format_score(mean)}  {number:>5}  {'':>9}  {verdict:<8}    person {person}{few}")
    return "\n".join(rows)


def format_score(score: float | None) -> str:
    return f"{'-' if score is None else format(score, '.4f'):>6}"


def format_found(found: dict[str, Any]) -> str:
    if not found["scored"]:
        return f"{'-':>7}  {'-':>9}  {found['verdict']:<8}"
    return f"{found['average_score']:>7.4f}  {found['deepfake_percent']:>9.1f}  {found['verdict']:<8}"


def format_accuracy(found: dict[str, float]) -> str:
    names = {"accuracy": "all", "accuracy_df": "df", "accuracy_real": "real"}
    names |= {"balanced_accuracy": "balanced", "auc": "AUC"}
    return ", ".join(f"{name} {found[key]:.3f}" for key, name in names.items() if key in found)


def fail(status: int, reason: object) -> int:
    print(f"deepfakes_images.py: {reason}", file=sys.stderr)
    return status


def parse_arguments() -> Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shown = "(default: %(default)s)"
    parser.add_argument(
        "paths",
        nargs="*",
        default=["test_images"],
        metavar="PATH",
        help="images, videos and folders of them (default: test_images)",
    )
    parser.add_argument(
        "--weights",
        default="Meso4_DF",
        metavar="FILE",
        help="what to score with: .tflite, or Keras' .weights.h5 or .h5; a name is looked up in "
        f"weights/ {shown}",
    )
    parser.add_argument(
        "--threshold",
        type=read_fraction,
        metavar="P",
        help="a score below it is called a deepfake (default: as the weights' card says)",
    )
    parser.add_argument(
        "--batch-size",
        type=pipeline.read_count,
        default=32,
        metavar="N",
        help=f"images the network sees at once {shown}",
    )

    faces = parser.add_argument_group("finding faces, in videos and with --align")
    faces.add_argument("--align", action="store_true", help="images are photographs: find their faces")
    faces.add_argument(
        "--frames", type=pipeline.read_count, default=30, metavar="N", help=f"to sample of a video {shown}"
    )
    faces.add_argument(
        "--every", type=pipeline.read_count, default=0, metavar="N", help="instead: sample every Nth frame"
    )
    faces.add_argument(
        "--everyone", action="store_true", help="all faces of a frame (default: a video's largest)"
    )
    faces.add_argument(
        "--min-size",
        type=pipeline.read_number,
        default=0.0,
        metavar="PIXELS",
        help=f"pass over smaller faces; from 80 on, faster {shown}",
    )

    output = parser.add_argument_group("output")
    output.add_argument("--csv", type=read_target, metavar="FILE", help="write a row per image, video, face")
    output.add_argument("--json", type=read_target, metavar="FILE", help="write these and the summary")
    output.add_argument("--resume", action="store_true", help="go on from what --json or --csv holds")
    output.add_argument(
        "--plot",
        type=read_figure_target,
        metavar="FILE",
        help="draw faces, histogram and, with labels, the ROC curve; of videos the scores over time "
        "(.png, .pdf, .svg)",
    )
    output.add_argument(
        "--annotate", type=read_folder, metavar="FOLDER", help="write copies with boxes, scores and verdicts"
    )
    output.add_argument(
        "--explain", type=read_folder, metavar="FOLDER", help="write where in the faces the evidence lies"
    )

    work = parser.add_argument_group("how to work, on videos")
    work.add_argument(
        "--jobs", type=pipeline.read_count, default=1, metavar="N", help=f"at once, a process each {shown}"
    )
    work.add_argument("--dask", metavar="ADDRESS", help="work on the Dask cluster with this scheduler")

    arguments = parser.parse_args()
    if "" in sys.argv:
        parser.error("an argument is empty: a variable that is not set?")
    targets = [target for target in (arguments.csv, arguments.json, arguments.plot) if target]
    if len({os.path.realpath(target) for target in targets}) < len(targets):
        parser.error("--csv, --json and --plot: wanted different files")
    if arguments.resume and not (arguments.csv or arguments.json):
        parser.error("--resume: say from which --json or --csv")
    return arguments


def read_fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: wanted 0 to 1")
    return value


def read_target(text: str) -> Path:
    """Refuse a file that cannot be written before the work is done, not after."""
    path = Path(text)
    special = os.path.exists(path) and not os.path.isfile(path)
    if special or not os.path.isdir(path.parent) or not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text}: cannot be written there")
    return path


def read_folder(text: str) -> Path:
    """Refuse a folder that cannot be written to before the work is done, not after."""
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: {pipeline.describe_error(error)}") from error
    if not os.access(path, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text}: cannot be written to")
    return path


def read_figure_target(text: str) -> Path:
    if not text.lower().endswith(FIGURE_SUFFIXES):
        raise argparse.ArgumentTypeError(f"{text}: wanted a name in {', '.join(FIGURE_SUFFIXES)}")
    return read_target(text)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except FileNotFoundError as error:  # other ones are told where they occur
        sys.exit(fail(2, f"the working folder is gone ({pipeline.describe_error(error)})"))
    except BrokenPipeError:  # whoever reads the report, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
