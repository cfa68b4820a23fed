"""Score face images: 1 = natural, 0 = deepfake/f2f.

Without arguments: every image in test_images and its subfolders. Prints a row per image when there
are few, a row per folder, the average score and the percentage classified as deepfake/f2f; where
folders are named df and real, also how often that is right.

Exit status: 0 all scored, 1 some images could not be, 2 nothing to score or wrong usage.
"""

import argparse
import csv
import json
import os
import sys
from pathlib import Path

from tqdm import tqdm

import pipeline

FEW = 50  # images: up to so many get a row each
FIGURE_SUFFIXES = (".png", ".jpg", ".pdf", ".svg")
MEANING = "A score is the probability that a face is real: 1 = natural, 0 = deepfake/f2f."


def main():
    arguments = parse_arguments()
    if sys.stdout:
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be UTF-8
    images = pipeline.find_images(arguments.paths)
    if not any(os.path.lexists(image.path) for image in images):
        return fail(2, f"nothing to score: no image in {', '.join(map(str, arguments.paths))}")
    try:
        weights = pipeline.find_weights(arguments.weights)
        predict = pipeline.load_predictor(weights, load_keras)
    except (OSError, ValueError) as error:
        return fail(2, error)
    threshold = weights.threshold if arguments.threshold is None else arguments.threshold

    scores = pipeline.score_images(images, predict, weights.resampling, threshold, arguments.batch_size)
    bar = tqdm(scores, total=len(images), unit="image", disable=None, delay=1, leave=False)
    scores = list(bar)

    summary = pipeline.summarize(scores, threshold)
    summary |= {"threshold": threshold, "weights": str(weights.path), "resampling": weights.resampling}
    accuracy = pipeline.evaluate_scores(scores, threshold)
    folders = {
        folder: pipeline.summarize(members, threshold)
        for folder, members in pipeline.group_by_folder(scores).items()
    }
    try:
        if arguments.csv:
            pipeline.write_whole(arguments.csv, lambda path: write_csv(path, scores))
        if arguments.json:
            content = summary | {"accuracy": accuracy, "folders": folders}
            pipeline.write_whole(arguments.json, lambda path: write_json(path, content, scores))
        if arguments.plot:
            pipeline.plot_scores(scores, threshold, arguments.plot)
    except (OSError, ValueError) as error:
        return fail(1, f"cannot write: {error}")
    finally:
        print_report(scores, folders, summary, accuracy)
    return 1 if summary["skipped"] else 0


def load_keras(path):
    with pipeline.hush_native():
        from classifiers import load_classifier  # imports TensorFlow: seconds

    return load_classifier(path)


def print_report(scores, folders, summary, accuracy):
    if len(scores) <= FEW:
        print(" score  verdict   image")
        for s in scores:
            shown = "-" if s.score is None else f"{s.score:.4f}"
            print(f"{shown:>6}  {s.verdict:<8}  {pipeline.show(s.image.path)}")
        print()
    for s in scores:
        if s.error:
            print(f"skipped {pipeline.show(s.image.path)}: {s.error}", file=sys.stderr)
    print("images  average  %deepfake  verdict   folder")
    for folder, found in folders.items():
        print(f"{found['images']:>6}  {format_found(found)}  {pipeline.show(folder)}")
    print()
    if summary["scored"]:
        print(f"Average score: {summary['average_score']:.4f}")
        deepfakes = round(summary["deepfake_percent"] * summary["scored"] / 100)
        print(
            f"Classified as deepfake/f2f: {summary['deepfake_percent']:.1f} % "
            f"({deepfakes} of {summary['scored']} images)"
        )
    if summary["skipped"]:
        print(f"Skipped: {summary['skipped']} of {summary['images']} images could not be scored")
    for level, found in accuracy.items():
        if level == "video" and found["count"] == accuracy["image"]["count"]:
            continue  # an image each: the same again
        print(f"Accuracy per {level}: {format_accuracy(found)}")
    print(
        f"{MEANING} Below {summary['threshold']:g} is called a deepfake "
        f"({pipeline.show(Path(summary['weights']).name)}, resizing: {summary['resampling']}).",
        flush=True,
    )


def format_found(found):
    if not found["scored"]:
        return f"{'-':>7}  {'-':>9}  {found['verdict']:<8}"
    return f"{found['average_score']:>7.4f}  {found['deepfake_percent']:>9.1f}  {found['verdict']:<8}"


def format_accuracy(found):
    names = {"accuracy": "all", "accuracy_df": "df", "accuracy_real": "real"}
    names |= {"balanced_accuracy": "balanced", "auc": "AUC"}
    return ", ".join(f"{name} {found[key]:.3f}" for key, name in names.items() if key in found)


def list_rows(scores):
    for s in scores:
        score = None if s.score is None else round(s.score, 6)
        yield {
            "path": str(s.image.path),
            "score": score,
            "verdict": s.verdict,
            "label": s.image.label,
            "error": s.error,
        }


def write_csv(path, scores):
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, ("path", "score", "verdict", "label", "error"))
        writer.writeheader()
        writer.writerows(list_rows(scores))


def write_json(path, summary, scores):
    content = {"summary": summary, "items": list(list_rows(scores))}
    path.write_text(json.dumps(content, indent=1) + "\n")


def fail(status, reason):
    print(f"deepfakes_images.py: {reason}", file=sys.stderr)
    return status


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "paths",
        nargs="*",
        default=["test_images"],
        metavar="PATH",
        help="images and folders of images (default: test_images)",
    )
    parser.add_argument(
        "--weights",
        default="Meso4_DF",
        metavar="FILE",
        help="what to score with: .tflite, or Keras' .weights.h5 or .h5; a name is looked up in "
        "weights/ (default: %(default)s)",
    )
    parser.add_argument(
        "--threshold",
        type=read_fraction,
        metavar="P",
        help="a score below it is called a deepfake (default: as the weights' card says)",
    )
    parser.add_argument(
        "--batch-size",
        type=read_count,
        default=32,
        metavar="N",
        help="images the network sees at once (default: %(default)s)",
    )
    parser.add_argument("--csv", type=read_target, metavar="FILE", help="write a row per image")
    parser.add_argument("--json", type=read_target, metavar="FILE", help="write summary and images")
    parser.add_argument(
        "--plot",
        type=read_figure_target,
        metavar="FILE",
        help="draw faces, histogram and, with labels, the ROC curve (.png, .pdf, .svg)",
    )
    arguments = parser.parse_args()
    targets = [target for target in (arguments.csv, arguments.json, arguments.plot) if target]
    if len({os.path.realpath(target) for target in targets}) < len(targets):
        parser.error("--csv, --json and --plot: wanted different files")
    return arguments


def read_fraction(text):
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: wanted 0 to 1")
    return value


def read_count(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: wanted 1 or more")
    return value


def read_target(text):
    """Refuse a file that cannot be written before the work is done, not after."""
    path = Path(text)
    special = os.path.exists(path) and not os.path.isfile(path)
    if special or not os.path.isdir(path.parent) or not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text}: cannot be written there")
    return path


def read_figure_target(text):
    if not text.lower().endswith(FIGURE_SUFFIXES):
        raise argparse.ArgumentTypeError(f"{text}: wanted a name in {', '.join(FIGURE_SUFFIXES)}")
    return read_target(text)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # whoever reads the report, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
