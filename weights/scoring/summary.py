"""Results in numbers and words: the summary in results.json, and the lines that deepfakes_images.py prints."""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pipeline import CROP_ZOOM, FaceOptions, compute_sha256, count, printable
from weights import Weights
from weights.scoring.metrics import evaluate_results
from weights.scoring.scores import LOST_NOTE, NO_FACE, NOT_SQUARE, SMALL, Result
from weights.scoring.verdicts import UNCLEAR, judge_face, list_people

ROWS_SHOWN = 50  # images: up to this many get a row each
NAMED = 5  # files that look forged, by name
MISSED = 0.3  # share of a kind's videos that pass as real: the kind is often missed
NOUNS = {"image": "image", "video": "video", "photo": "photograph"}  # face crops are images
MEANING = "A score says how real a face looks to the network: 1 = natural, 0 = deepfake/f2f."
LARGEST_ONLY = "Only the largest face in each frame was scored; --everyone scores all faces."
HINTS = {  # for the warnings of face crops
    NOT_SQUARE: "are not square, so they are hardly face crops: without --crops their faces are found first",
    LOST_NOTE: "lack the comment in which extract_faces.py says how wide they were cut; other programs drop it. "
    "They were seen whole, which shifts their scores: extract them again, with --force",
    SMALL: "show faces smaller than those that the weights were tested on: their verdicts are unsure",
    NO_FACE: "are large, but no face was found in them: they were taken for face crops",
}


def describe_settings(weights: Weights, options: FaceOptions, align: bool | None) -> str:
    """Return what the scores depend on, in one line; verdicts also depend on the threshold."""
    parts = [
        f"{weights.path.name} {compute_sha256(weights.path)[:8]}",
        f"resizing: {weights.view.resampling}",
    ]
    parts += [f"zoom {weights.view.zoom}"] if weights.view.zoom != CROP_ZOOM else []
    parts += [f"{options.frames} frames a video"]
    if options.start or options.end is not None:
        end = "the end" if options.end is None else f"{options.end:.15g} s"
        parts += [f"from {options.start:.15g} s to {end}"]
    parts += ["all faces of a frame" if options.everyone else "the largest face of a frame"]
    if align is not None:
        parts += ["faces found in all images" if align else "all images taken for face crops"]
    return ", ".join(parts)


def summarize(results: Sequence[Result]) -> dict[str, Any]:
    """Return counts of the Results, and their average score and shares of verdicts over those scored."""
    scores = [r.score for r in results if r.score is not None]
    verdicts = Counter(r.verdict for r in results)
    shares = {verdict: 100 * verdicts[verdict] / len(scores) if scores else None for verdict in verdicts}
    return {
        "files": len(results),
        "scored": len(scores),
        "skipped": verdicts["error"],
        "no_face": verdicts["no face"],
        "verdicts": dict(verdicts),
        "average_score": float(np.mean(scores)) if scores else None,
        "deepfake_percent": shares.get("deepfake", 0.0) if scores else None,
        "uncertain_percent": shares.get("uncertain", 0.0) if scores else None,
    }


def describe_outcome(results: Sequence[Result], weights: Weights, settings: str) -> dict[str, Any]:
    """Return the summary that results.json holds: of all files, and of each kind that occurred."""
    summary = summarize(results) | {
        "threshold": weights.rule.threshold,
        "rule": str(weights.rule),
        "weights": str(weights.path),
        **weights.view._asdict(),
        "settings": settings,
    }
    for kind in NOUNS:
        if own := [r for r in results if r.item.kind == kind]:
            levels = evaluate_results(own, weights.rule)
            accuracy = levels if kind == "image" else levels.get("image", {})
            summary[f"{kind}s"] = summarize(own) | {"accuracy": accuracy}
    if "images" in summary:
        folders = group_by_folder(r for r in results if r.item.kind == "image")
        summary["images"]["folders"] = {folder: summarize(own) for folder, own in folders.items()}
    return summary


def group_by_folder(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Return {folder: its Results}, in order of appearance."""
    folders = defaultdict(list)
    for result in results:
        folders[str(result.item.path.parent)].append(result)
    return folders


# --- what is printed ------------------------------------------------------------------------------


def print_hints(results: Iterable[Result]) -> None:
    """Print on stderr what is odd about face crops, once for each reason."""
    warned = Counter(r.warning for r in results if r.item.kind == "image")
    for warning, hint in HINTS.items():
        if warned[warning]:
            print(f"hint: {count(warned[warning], 'image')} {hint}", file=sys.stderr)


def print_outcome(results: Sequence[Result], summary: dict[str, Any], weights: Weights) -> None:
    """Print rows of images and folders, which files look forged, the summary, and how sure that is."""
    images = [r for r in results if r.item.kind == "image"]
    if len(images) < len(results):  # their rows are printed
        print()
    print_images(images, summary)
    print(describe_found(results))
    for kind, noun in NOUNS.items():
        if f"{kind}s" in summary:
            print_summary(summary[f"{kind}s"], noun)
    for kind in ("video", "photo"):
        if f"{kind}s" in summary and (line := describe_errors(weights.card, kind)):
            print(line)
    if "videos" in summary and "the largest face of a frame" in summary["settings"]:
        print(LARGEST_ONLY)
    kinds = [kind for kind in NOUNS if f"{kind}s" in summary and not weights.rule.bounds_of(kind)]
    judged = ["Face crops" if kind == "image" else f"{NOUNS[kind]}s" for kind in kinds]
    rule = f" {' and '.join(judged)} below {weights.rule.threshold:g} are called deepfake"
    used = f"({printable(weights.path.name)}, resizing: {weights.view.resampling})"
    print(f"{MEANING}{rule if judged else ''} {used}.", flush=True)


def print_images(images: Sequence[Result], summary: dict[str, Any]) -> None:
    """Print a row per face crop and folder; of many crops, only those called deepfake, if they are few."""
    shown = images if len(images) <= ROWS_SHOWN else [r for r in images if r.verdict == "deepfake"]
    if 0 < len(shown) <= ROWS_SHOWN:
        print(" score  verdict   image")
        for r in shown:
            print(f"{format_score(r.score)}  {r.verdict:<8}  {printable(r.item.path)}")
    if len(images) > ROWS_SHOWN:
        few = "Rows only for images called deepfake" if len(shown) <= ROWS_SHOWN else "Too many rows"
        print(f"{few}: --output lists all images.")
    if not images:
        return
    print("\nimages  average  %deepfake  folder")
    for folder, found in summary["images"]["folders"].items():
        shares = f"{'-':>7}  {'-':>9}"
        if found["scored"]:
            shares = f"{found['average_score']:>7.4f}  {found['deepfake_percent']:>9.1f}"
        print(f"{found['files']:>6}  {shares}  {printable(folder)}")
    print()


def format_row(result: Result, weights: Weights) -> str:
    """Return the row of a video or photograph and, if it shows several people, a row for each."""
    kind, rule = result.item.kind, weights.rule
    if result.verdict == "error":
        return f"     -      -          -  error      {printable(result.item.path)}"
    forged = sum(judge_face(face, kind, rule) == "deepfake" for face in result.faces)
    share = f"{100 * forged / len(result.faces):.1f}" if result.faces else "-"
    path = printable(result.item.path) + (f" ({result.remarks})" if result.remarks else "")
    rows = [f"{format_score(result.score)}  {len(result.faces):>5}  {share:>9}  {result.verdict:<9}  {path}"]
    people = list_people(result.faces, kind, rule)
    for person, mean, number, verdict, counts in people if len(people) > 1 else ():
        few = "" if counts else f", {UNCLEAR[kind]}"
        rows.append(f"{format_score(mean)}  {number:>5}  {'':>9}  {verdict:<9}    person {person}{few}")
    return "\n".join(rows)


ROW_HEAD = " score  faces  %deepfake  verdict    file"


def format_score(score: float | None) -> str:
    return f"{'-' if score is None else format(score, '.4f'):>6}"


def describe_found(results: Sequence[Result]) -> str:
    """Return which files look forged: `3 of 14 look forged: a.mp4, b.mp4, c.mp4`."""
    forged = [printable(r.item.path) for r in results if r.verdict == "deepfake"]
    named = ", ".join(forged[:NAMED]) + (", ..." if len(forged) > NAMED else "")
    scored = sum(r.score is not None for r in results)
    return f"{len(forged)} of {scored} look{'s' * (len(forged) == 1)} forged{': ' * bool(forged)}{named}"


def print_summary(found: dict[str, Any], noun: str) -> None:
    """Print the summary of one kind of files."""
    if found["scored"]:
        number = found["verdicts"].get("deepfake", 0)
        unsure = f", uncertain {found['uncertain_percent']:.1f} %" if found["uncertain_percent"] else ""
        print(f"Average score: {found['average_score']:.4f}")
        print(
            f"Classified as deepfake/f2f: {found['deepfake_percent']:.1f} % "
            f"({number} of {count(found['scored'], noun)}){unsure}"
        )
    for key, what in (("no_face", "No face found"), ("skipped", "Could not be read")):
        if found[key]:
            print(f"{what}: {found[key]} of {count(found['files'], noun)}")
    levels = (
        found["accuracy"] if noun == "image" else {"image": found["accuracy"]} if found["accuracy"] else {}
    )
    for level, figures in levels.items():
        if level == "image" or figures["count"] < levels["image"]["count"]:  # else one image each
            print(f"Right per {noun if level == 'image' else level}: {format_accuracy(figures)}")


def format_accuracy(found: dict[str, float]) -> str:
    names = {"accuracy": "all", "accuracy_df": "df", "accuracy_real": "real"}
    names |= {"balanced_accuracy": "balanced", "auc": "AUC", "uncertain": "uncertain"}
    return ", ".join(f"{name} {found[key]:.3f}" for key, name in names.items() if found.get(key) is not None and (key != "uncertain" or found[key]))


def describe_errors(card: dict[str, Any], kind: str) -> str:
    """Return a line about how often the weights err on a "video" or "photo", "" if the card does not say."""
    if "calibration" not in card:
        return ""
    found = card["calibration"]["video" if kind == "video" else "face"]
    noun = "videos" if kind == "video" else "single faces"
    wrong_real = round(found["real_called_deepfake"] * found["real"])
    wrong_forged = round(found["forged_called_real"] * found["forged"])
    missed = f" Often missed: {', '.join(list_missed(card))}." if list_missed(card) else ""
    return (
        f"Deepfake below {found['lower']:.3f}, real above {found['upper']:.3f}: of validation {noun}, "
        f"{wrong_real} of {found['real']} real ones were called deepfake and {wrong_forged} of "
        f"{found['forged']} forged ones real; {100 * found['uncertain']:.0f} % stayed uncertain.{missed} "
        "Newer kinds of forgery pass as real."
    )


def list_missed(card: dict[str, Any]) -> list[str]:
    """Return the kinds of forgery of whose validation videos 30 % or more passed as real."""
    kinds = card.get("calibration", {}).get("video", {}).get("kinds", {})
    forged = {kind: found for kind, found in kinds.items() if not kind.endswith("real")}
    return [kind for kind, found in forged.items() if found["real"] >= MISSED * sum(found.values())]


def describe_crop_errors(weights: Weights) -> str:
    """Return a line about verdicts on face crops, by the threshold alone, and how often they are right."""
    line = f"Face crops are called deepfake below {weights.rule.threshold:g}; none is uncertain. "
    found = weights.card.get("validation", {}).get("all", {}).get("image")
    if not found:
        return f"{line}How often that is wrong was not measured."
    return (
        f"{line}Of {found['count']} faces on which these weights were tested, {found['accuracy_df']:.0%} of "
        f"the forged and {found['accuracy_real']:.0%} of the real ones were judged right."
    )
