"""Results in words: the rows and the summary that deepfakes_images.py prints."""

import sys
from pathlib import Path
from typing import Any

from pipeline import printable
from weights.scores import MIN_FACES_PER_PERSON, Result, average_people, verdict_of

ROWS_SHOWN = 50  # images: up to this many get a row each
MEANING = "A score says how real a face looks to the network: 1 = natural, 0 = deepfake/f2f."


def print_report(results: list[Result], summary: dict[str, Any]) -> None:
    """Print rows of images and folders, what was skipped, and the summary that --json holds as well."""
    images = [r for r in results if r.kind == "image"]
    if images and len(images) <= ROWS_SHOWN:
        print(" score  verdict   image")
        for r in images:
            print(f"{format_score(r.score)}  {r.verdict:<8}  {printable(r.item.path)}")
        print()
    for r in results:
        if r.error:
            skipped = "skipped " if r.score is None else ""
            print(f"{skipped}{printable(r.item.path)}: {r.error}", file=sys.stderr)
    if images:
        print("images  average  %deepfake  verdict   folder")
        for folder, found in summary["images"]["folders"].items():
            print(f"{found['files']:>6}  {format_summary(found)}  {printable(folder)}")
        print()
        print_summary(summary["images"], "images")
        levels = summary["images"]["accuracy"]
        for level, found in levels.items():
            if level == "image" or found["count"] < levels["image"]["count"]:  # else one image each
                print(f"Accuracy per {level}: {format_accuracy(found)}")
    for kind, noun in (("videos", "videos"), ("photos", "photographs")):
        if kind in summary:
            print_summary(summary[kind], noun)
            if summary[kind]["accuracy"]:
                print(f"Accuracy over {noun}: {format_accuracy(summary[kind]['accuracy'])}")
    weights = printable(Path(summary["weights"]).name)
    print(
        f"{MEANING} Below {summary['threshold']:g} is called a deepfake "
        f"({weights}, resizing: {summary['resampling']}).",
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
        print(f"No face found: {found['no_face']} of {found['files']} {noun}")
    if found["skipped"]:
        print(f"Skipped: {found['skipped']} of {found['files']} {noun} could not be scored")


def format_video(result: Result, threshold: float) -> str:
    """Return the row of a video or photograph and, if it shows several people, a row for each."""
    forged = sum(face.score < threshold for face in result.faces)
    share = f"{100 * forged / len(result.faces):.1f}" if result.faces else "-"
    count = "-" if result.score is None and result.error else len(result.faces)
    path = printable(result.item.path)
    note = f" ({result.note})" if result.note else ""
    rows = [f"{format_score(result.score)}  {count:>5}  {share:>9}  {result.verdict:<8}  {path}{note}"]
    people = average_people(result.faces)
    often = [number for _, number in people.values() if number >= MIN_FACES_PER_PERSON]
    for person, (mean, number) in people.items() if len(people) > 1 else ():
        few = ", too few faces to decide" if often and number < MIN_FACES_PER_PERSON else ""
        verdict = verdict_of(mean, threshold)
        rows.append(f"{format_score(mean)}  {number:>5}  {'':>9}  {verdict:<8}    person {person}{few}")
    return "\n".join(rows)


def format_score(score: float | None) -> str:
    return f"{'-' if score is None else format(score, '.4f'):>6}"


def format_summary(found: dict[str, Any]) -> str:
    if not found["scored"]:
        return f"{'-':>7}  {'-':>9}  {found['verdict']:<8}"
    return f"{found['average_score']:>7.4f}  {found['deepfake_percent']:>9.1f}  {found['verdict']:<8}"


def format_accuracy(found: dict[str, float]) -> str:
    names = {"accuracy": "all", "accuracy_df": "df", "accuracy_real": "real"}
    names |= {"balanced_accuracy": "balanced", "auc": "AUC"}
    return ", ".join(f"{name} {found[key]:.3f}" for key, name in names.items() if key in found)
