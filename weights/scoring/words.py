"""Results in words: the rows and the summary that deepfakes_images.py prints."""

import sys
from collections.abc import Sequence
from typing import Any

from pipeline import CROP_ZOOM, FaceOptions, compute_sha256, printable
from weights import Rule, Weights
from weights.scoring.metrics import evaluate_results
from weights.scoring.scores import Result, group_by_folder, summarize
from weights.scoring.verdicts import UNCLEAR, list_people

ROWS_SHOWN = 50  # images: up to this many get a row each
LARGEST_ONLY = "the largest face of a frame"  # among the settings
MEANING = "A score says how real a face looks to the network: 1 = natural, 0 = deepfake/f2f."


def describe_settings(weights: Weights, options: FaceOptions, align: bool) -> str:
    """Return what the scores depend on, in one line."""
    several = weights.joined or (weights,)
    parts = [f"{one.path.name} {compute_sha256(one.path)[:8]}" for one in several]
    if weights.joined:  # of one set, only verdicts depend on the threshold
        parts = [
            f"{part} (threshold {one.rule.threshold:g})" for part, one in zip(parts, several, strict=True)
        ]
    parts += [f"resizing: {weights.view.resampling}"]
    parts += [f"zoom {weights.view.zoom}"] if weights.view.zoom != CROP_ZOOM else []
    parts += [f"one frame in {options.every}" if options.every else f"{options.frames} frames a video"]
    if options.start or options.end is not None:
        end = "the end" if options.end is None else f"{options.end:.15g} s"
        parts += [f"from {options.start:.15g} s to {end}"]
    parts += ["all faces of a frame" if options.everyone else LARGEST_ONLY]
    if options.min_size:
        parts += [f"of at least {options.min_size:.15g} pixels"]
    if align:
        parts += ["faces found in photographs"]
    return ", ".join(parts)


def describe_outcome(results: Sequence[Result], weights: Weights, settings: str) -> dict[str, Any]:
    """Return the summary that --json holds beside the rows: of all files, and of each kind that occurred."""
    rule = weights.rule
    summary = summarize(results, rule) | {
        "threshold": rule.threshold,
        "video_threshold": rule.video_threshold,
        "weights": ", ".join(str(one.path) for one in weights.joined or (weights,)),
        **weights.view._asdict(),
        "settings": settings,
    }
    images = [r for r in results if r.kind == "image"]
    if images:
        folders = group_by_folder(images).items()
        summary["images"] = summarize(images, rule) | {
            "accuracy": evaluate_results(images, Rule(rule.threshold, rule.threshold)),
            "folders": {folder: summarize(members, rule) for folder, members in folders},
        }
    for kind in ("video", "photo"):
        searched = [r for r in results if r.kind == kind]
        if searched:
            by_file = Rule(rule.threshold_of(kind), face=rule.bounds_of(kind))
            accuracy = evaluate_results(searched, by_file).get("image", {})
            if "uncertain" in accuracy:  # not by the score alone: faces may be too few, or people many
                labelled = [r.verdict for r in searched if r.item.label and r.score is not None]
                accuracy["uncertain"] = labelled.count("uncertain") / len(labelled)
            summary[f"{kind}s"] = summarize(searched, rule) | {"accuracy": accuracy}
    return summary


def print_report(results: list[Result], summary: dict[str, Any], weights: Weights) -> None:
    """Print rows of images and folders, what was skipped, and the summary that --json holds as well.

    The card of the weights says how often they err.
    """
    images = [r for r in results if r.kind == "image"]
    print_rows(images, weights)
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
            if weights.rule.bounds_of(kind.removesuffix("s")):  # else they say the same as the percentage
                counts = sorted(summary[kind]["verdicts"].items())
                listed = ", ".join(f"{number} {verdict}" for verdict, number in counts)
                print(f"Verdicts, with a margin for doubt: {listed}")
            if summary[kind]["accuracy"]:
                print(f"Accuracy over {noun}: {format_accuracy(summary[kind]['accuracy'])}")
            print(describe_errors(weights.card, "video" if kind == "videos" else "face"), end="")
    if "videos" in summary and LARGEST_ONLY in summary["settings"]:
        print("Only the largest face of each frame was looked at: --everyone looks at all.")
    names = " and ".join(printable(one.path.name) for one in weights.joined or (weights,))
    lowest = "; the lowest of several scores counts, shifted to this threshold" if weights.joined else ""
    meant = describe_threshold({r.kind for r in results}, weights.rule)
    print(f"{MEANING} {meant} ({names}, resizing: {weights.view.resampling}{lowest}).", flush=True)


def print_rows(images: Sequence[Result], weights: Weights) -> None:
    """Print a row per image; of many images, only those called deepfake, if they are few."""
    shown = images if len(images) <= ROWS_SHOWN else [r for r in images if r.verdict == "deepfake"]
    if 0 < len(shown) <= ROWS_SHOWN:
        print(f" score  verdict   {name_parts(weights.names)}image")
        for r in shown:
            parts = format_parts(r, weights.names)
            print(f"{format_score(r.score)}  {r.verdict:<8}  {parts}{printable(r.item.path)}")
    if len(images) > ROWS_SHOWN:
        few = len(shown) <= ROWS_SHOWN
        print(
            f"{'Rows only for images called deepfake' if few else 'Too many rows'}: --csv lists all images."
        )
    if images:
        print()


def describe_threshold(kinds: set[str], rule: Rule) -> str:
    """Return what the thresholds are for Results of these kinds: a video's may differ from that of a face."""
    face, video = f"{rule.threshold:g}", f"{rule.video_threshold:g}"
    below = video if kinds == {"video"} else face
    if "video" in kinds and below != video:
        return f"Scores below {face}, of videos below {video}, count as deepfake in the percentage"
    if "image" in kinds:
        return f"Below {below} is called a deepfake"
    # verdicts on videos and photographs have bounds of their own
    return f"Scores below {below} count as deepfake in the percentage"


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


def describe_errors(card: dict[str, Any], level: str) -> str:
    """Return a line about how often weights err on a "video" or "face", "" if their card does not say."""
    if "calibration" not in card:
        return ""
    found = card["calibration"][level]
    kind = {"video": "videos", "face": "single faces"}[level]
    wrong_real = round(found["real_called_deepfake"] * found["real"])
    wrong_forged = round(found["forged_called_real"] * found["forged"])
    return (
        f"Scores of {kind} are called deepfake below {found['lower']:.3f} and real above "
        f"{found['upper']:.3f}. So, of validation {kind}, {wrong_real} of {found['real']} real ones were "
        f"called deepfake and {wrong_forged} of {found['forged']} forged ones real; "
        f"{found['uncertain']:.0%} stayed uncertain. "
        "Other kinds of forgery are not recognised.\n"
    )


def describe_crop_errors(weights: Weights, crops: bool) -> str:
    """Return a line about verdicts by the threshold alone: on face `crops`, or on all without calibration."""
    calibrated = "calibration" in weights.card
    if calibrated and not crops:
        return ""
    what = "Face crops are" if calibrated else "Everything is"
    line = f"{what} called deepfake below {weights.rule.threshold:g}: nothing is uncertain. "
    found = weights.card.get("validation", {}).get("all", {}).get("image")
    if not found:
        return f"{line}How often that is wrong was not measured."
    return (
        f"{line}Of {found['count']} faces on which these weights were tested, {found['accuracy_df']:.0%} of "
        f"the forged and {found['accuracy_real']:.0%} of the real ones were on the right side."
    )


def format_video(result: Result, weights: Weights) -> str:
    """Return the row of a video or photograph and, if it shows several people, a row for each."""
    forged = sum(face.score < weights.rule.threshold for face in result.faces)
    share = f"{100 * forged / len(result.faces):.1f}" if result.faces else "-"
    count = "-" if result.score is None and result.error else len(result.faces)
    path = printable(result.item.path)
    path += f" ({result.remarks})" if result.remarks else ""
    start = f"{format_score(result.score)}  {count:>5}  {share:>9}  {result.verdict:<9}"
    rows = [f"{start}  {format_parts(result, weights.names)}{path}"]
    people = list_people(result.faces, result.kind, weights.rule)
    for person, mean, number, verdict, counts in people if len(people) > 1 else ():
        few = "" if counts else f", {UNCLEAR[result.kind]}"
        rows.append(f"{format_score(mean)}  {number:>5}  {'':>9}  {verdict:<9}    person {person}{few}")
    return "\n".join(rows)


def name_parts(names: Sequence[str]) -> str:
    """Return the heads of the columns of several weights."""
    return "".join(f"{name:>6}  " for name in names)


def format_parts(result: Result, names: Sequence[str]) -> str:
    """Return the scores by several weights, as wide as their names."""
    parts = dict(result.parts)
    cells = (f"{parts[name]:.4f}" if name in parts else "-" for name in names)
    return "".join(f"{cell:>{max(6, len(name))}}  " for name, cell in zip(names, cells, strict=True))


def format_score(score: float | None) -> str:
    return f"{'-' if score is None else format(score, '.4f'):>6}"


def format_summary(found: dict[str, Any]) -> str:
    if not found["scored"]:
        return f"{'-':>7}  {'-':>9}  {found['verdict']:<8}"
    return f"{found['average_score']:>7.4f}  {found['deepfake_percent']:>9.1f}  {found['verdict']:<8}"


def format_accuracy(found: dict[str, float]) -> str:
    names = {"accuracy": "all", "accuracy_df": "df", "accuracy_real": "real"}
    names |= {"balanced_accuracy": "balanced", "auc": "AUC", "uncertain": "uncertain"}
    return ", ".join(f"{name} {found[key]:.3f}" for key, name in names.items() if key in found)
