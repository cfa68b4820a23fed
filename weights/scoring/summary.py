"""Results in numbers and words: the summary in results.json, and the lines that are printed."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline import FaceOptions, count, printable
from weights import Rule, Weights, compute_sha256
from weights.scoring.metrics import evaluate_results, group_by
from weights.scoring.scores import Result
from weights.scoring.verdicts import UNCLEAR, judge_face, list_people

ROWS_SHOWN = 50  # images: up to this many get a row each
NAMED = 5  # files that look forged, and kinds of forgery
KINDS = {"deepfakes": "Deepfakes", "face2face": "Face2Face", "faceswap": "FaceSwap",
         "neuraltextures": "NeuralTextures", "unnamed": "other forged"}  # fmt: skip
COUNTED = {"deepfake": ("look forged", "looks forged"), "uncertain": ("are uncertain", "is uncertain")}
NOUNS = {"image": "image", "video": "video", "photo": "photograph"}  # face crops are images
MEANING = "A score says how real a face looks to the network: 1 = natural, 0 = deepfake/f2f."
ROW_HEAD = " score  faces  %deepfake  verdict    file\n"


def describe_settings(weights: Weights, options: FaceOptions, align: bool | None) -> str:
    """Return what the scores depend on, in one line; verdicts also depend on the threshold."""
    end = "the end" if options.end is None else f"{options.end:.15g} s"
    parts = [
        f"{weights.path.name} {compute_sha256(weights.path)[:8]}",
        "resizing: {}, zoom {}, mirrored: {}".format(*weights.view),
        f"{options.frames} frames a video from {options.start:.15g} s to {end}",
        "all faces of a frame" if options.everyone else "the largest face of a frame",
    ]
    if align is not None:
        parts.append("faces found in all images" if align else "all images taken for face crops")
    return ", ".join(parts)


def summarize(results: Sequence[Result]) -> dict[str, Any]:
    """Return counts of the Results, and their average score and shares of verdicts over those scored."""
    scores = [r.score for r in results if r.score is not None]
    verdicts = Counter(r.verdict for r in results)
    return {
        "files": len(results),
        "scored": len(scores),
        "skipped": verdicts["error"],
        "no_face": verdicts["no face"],
        "verdicts": dict(verdicts),
        "average_score": float(np.mean(scores)) if scores else None,
        "deepfake_percent": 100 * verdicts["deepfake"] / len(scores) if scores else None,
        "uncertain_percent": 100 * verdicts["uncertain"] / len(scores) if scores else None,
    }


def describe_outcome(results: Sequence[Result], weights: Weights, settings: str) -> dict[str, Any]:
    """Return the summary that results.json holds: of all files, and of each kind that occurred."""
    used = {"threshold": weights.rule.threshold, "rule": str(weights.rule), "weights": str(weights.path)}
    summary = summarize(results) | used | weights.view._asdict() | {"settings": settings}
    for kind in NOUNS:
        if own := [r for r in results if r.item.kind == kind]:
            summary[f"{kind}s"] = summarize(own) | {"accuracy": evaluate_results(own, weights.rule)}
    return summary


# --- what is printed ------------------------------------------------------------------------------


def print_outcome(results: Sequence[Result], summary: dict[str, Any], weights: Weights) -> None:
    """Print rows of face crops and folders, which files look forged, the summary, and how sure that is."""
    images = [r for r in results if r.item.kind == "image"]
    if len(images) < len(results):  # their rows are printed
        print()
    if images:
        print_images(images)
    for verdict, words in COUNTED.items():
        found = [printable(r.item.path) for r in results if r.verdict == verdict]
        named = ", ".join(found[:NAMED]) + (", ..." if len(found) > NAMED else "")
        if found or verdict == "deepfake":
            print(f"{len(found)} of {summary['scored']} {words[len(found) == 1]}{': ' * bool(found)}{named}")
    kinds = [kind for kind in NOUNS if f"{kind}s" in summary]
    for kind in kinds:
        print_summary(summary[f"{kind}s"], NOUNS[kind])
    notes = [describe_errors(weights.card, kind) for kind in kinds if kind != "image"]
    notes.append(describe_knowledge(weights.card))
    if "videos" in summary and "the largest face of a frame" in summary["settings"]:
        notes.append("Only the largest face in each frame was scored; --everyone scores all faces.")
    judged = "face crops" if weights.rule.video else "files"
    used_here = "images" in summary or not weights.rule.video
    below = f"Below {weights.rule.threshold:g}, {judged} are called deepfake " * used_here
    used = f"({printable(weights.path.name)}, resizing: {weights.view.resampling})."
    print(*filter(None, notes), f"{MEANING} {below}{used}", sep="\n", flush=True)


def print_images(images: Sequence[Result]) -> None:
    """Print a row per face crop and folder; of many crops, only of the first that are called deepfake."""
    many = len(images) > ROWS_SHOWN
    shown = [r for r in images if r.verdict == "deepfake"][:ROWS_SHOWN] if many else images
    if shown:
        print(" score  verdict   image")
    for r in shown:
        print(f"{format_score(r.score)}  {r.verdict:<8}  {name_file(r)}")
    if many:
        print(f"Rows only for images called deepfake, at most {ROWS_SHOWN}: --output lists all images.")
    print("\nimages  average  %deepfake  folder")
    for folder, own in group_by(images, lambda r: r.item.path.parent).items():
        found = summarize(own)
        share = f"{found['deepfake_percent']:.1f}" if found["scored"] else "-"
        print(f"{len(own):>6}  {format_score(found['average_score']):>7}  {share:>9}  {printable(folder)}")
    print()


def format_row(result: Result, rule: Rule) -> str:
    """Return the row of a video or photograph and, if it shows several people, a row for each."""
    kind, people = result.item.kind, list_people(result.faces, result.item.kind, rule)
    lines: list[Any] = [(result.score, result.faces, result.verdict, name_file(result))]
    for person in people if len(people) > 1 else ():
        few = "" if person.counts else f", {UNCLEAR[kind]}"
        lines.append((person.score, person.faces, person.verdict, f"  person {person.number}{few}"))
    rows = []
    for score, faces, verdict, name in lines:
        forged = sum(judge_face(face, kind, rule) == "deepfake" for face in faces)
        share = f"{100 * forged / len(faces):.1f}" if faces else "-"
        rows.append(f"{format_score(score)}  {len(faces) or '-':>5}  {share:>9}  {verdict:<9}  {name}")
    return "\n".join(rows)


def name_file(result: Result) -> str:
    return printable(result.item.path) + (f" ({result.remarks})" if result.remarks else "")


def format_score(score: float | None) -> str:
    return f"{'-' if score is None else format(score, '.4f'):>6}"


def print_summary(found: dict[str, Any], noun: str) -> None:
    """Print the summary of one kind of files."""
    if found["scored"]:
        share, unsure = found["deepfake_percent"], found["uncertain_percent"]
        counted = f"{found['verdicts'].get('deepfake', 0)} of {count(found['scored'], noun)}"
        print(f"Average score: {found['average_score']:.4f}")
        doubt = f", uncertain {unsure:.1f} %" if unsure else ""
        print(f"Classified as deepfake/f2f: {share:.1f} % ({counted}){doubt}")
    for key, what in (("no_face", "No face found"), ("skipped", "Could not be read")):
        if found[key]:
            print(f"{what}: {found[key]} of {count(found['files'], noun)}")
    for level, figures in found["accuracy"].items():
        if level == "image" or figures["count"] < found["accuracy"]["image"]["count"]:  # else one image each
            print(f"Right per {noun if level == 'image' else level}: {format_accuracy(figures)}")


def format_accuracy(found: dict[str, float]) -> str:
    names = {"accuracy": "all", "accuracy_df": "df", "accuracy_real": "real",
             "balanced_accuracy": "balanced", "auc": "AUC", "uncertain": "uncertain"}  # fmt: skip
    return ", ".join(f"{name} {found[key]:.3f}" for key, name in names.items() if key in found)


def describe_errors(card: dict[str, Any], kind: str) -> str:
    """Return a line about how often the weights err on a kind of file, "" if the card does not say."""
    if kind == "image":
        if not (found := card.get("validation", {}).get("all", {}).get("image")):
            return ""
        shares = f"{100 * found['accuracy_df']:.0f} % of the forged and {100 * found['accuracy_real']:.0f} %"
        return f"Of {found['count']} validation face crops, {shares} of the real ones were judged right."
    if "calibration" not in card:
        return ""
    level = "video" if kind == "video" else "face"
    found = card["calibration"][level]
    kinds = list_kinds(card)[:NAMED] if kind == "video" else []
    overall = "forged", round(found["forged_called_real"] * found["forged"]), found["forged"]
    (name, missed, number), *others = kinds or [overall]
    rest = "".join(f"; of {number} {name}, {missed}" for name, missed, number in others)
    accused = round(found["real_called_deepfake"] * found["real"])
    low, high = (100 * share for share in found.get("real_error_interval", (0, 1)))
    return (
        f"Of {number} {name} {level}s it was not trained on, {missed} passed as real{rest}; "
        f"of {found['real']} real, {accused} were called deepfake "
        f"(90 % interval: {low:.0f} to {high:.0f} %); {100 * found['uncertain']:.0f} % stayed uncertain "
        f"(deepfake below {found['lower']:.3f}, real above {found['upper']:.3f})."
    )


def list_kinds(card: dict[str, Any]) -> list[tuple[str, int, int]]:
    """Return (kind of forgery, videos that passed as real, videos tried), the most often missed first."""
    kinds = card.get("calibration", {}).get("kinds", {})
    rows = [(KINDS.get(k, k), n["real"], sum(n.values())) for k, n in kinds.items() if k != "real"]
    return sorted(rows, key=lambda row: -row[1] / max(1, row[2]))


def describe_knowledge(card: dict[str, Any]) -> str:
    """Return which forgeries the weights know, in a sentence; "" if the card does not say."""
    known = ", ".join(KINDS.get(kind, kind) for kind in card.get("forgeries", ()))
    return f"Knows {known}; newer kinds pass as real." if known else ""
