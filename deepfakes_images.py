"""Score faces in images and videos: 1 = natural, 0 = deepfake/f2f.

Without arguments: every image in test_images and its subfolders. Face crops are scored as they are; in
photographs and videos the faces are found first. A video's score is the mean of its faces' scores; where
several people appear, the lowest person's mean. Prints a row per file, the average score and the percentage
classified as deepfake/f2f. With --output, a folder gets tables and a report; the same command continues.

Exit status: 0 all files were read, 1 some were not, 2 wrong usage or nothing to score, 3 --fail-on,
130 stopped with Ctrl-C.
"""

import signal

if __name__ == "__main__":  # Ctrl-C while modules are imported is no traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import os
import sys
import time
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

import pipeline
from pipeline import FaceOptions, Item, fail, printable, show_progress
from weights import DEFAULT, Rule, Weights, find_weights
from weights.scoring import Result, score, summary
from weights.scoring.results import COPIES, PAGE, open_folder, write_tables

SAVE_EVERY = 10.0  # seconds
ALARMING = {"deepfake": ("deepfake",), "uncertain": ("deepfake", "uncertain")}  # verdicts for --fail-on


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    items, passed_over = pipeline.find_files(arguments.paths)
    if passed_over and not arguments.quiet:
        print(pipeline.describe_passed_over(passed_over), file=sys.stderr)
    if not any(os.path.lexists(item.path) for item in items):
        searched = ", ".join(printable(path) for path in arguments.paths)
        return fail(2, f"nothing to score: there is no image or video in {searched}")
    known: dict[str, Result] = {}  # what an earlier run found
    try:
        weights = find_weights(arguments.weights)
        if arguments.threshold is not None:  # what the card says of errors holds for its own bounds
            card = {k: v for k, v in weights.card.items() if k not in ("calibration", "validation")}
            weights = weights._replace(rule=Rule(arguments.threshold), card=card)
        settings = summary.describe_settings(weights, arguments.options, arguments.align)
        if arguments.output:
            known = open_folder(arguments.output, settings, weights.rule, arguments.force)
    except (OSError, ValueError) as error:
        return fail(2, error)
    results, status, stopped = dict(known), 0, False
    try:
        try:
            score_files(arguments, items, weights, settings, results)
        except KeyboardInterrupt:
            stopped = True
        done = [results[str(item.path)] for item in items if str(item.path) in results]
        if arguments.output:
            from weights.scoring.report import write_report

            page, found, loud = arguments.output / PAGE, list(results.values()), not arguments.quiet
            write_report(page, found, weights, settings, arguments.explain, loud)
        if arguments.annotate and not stopped:
            status = annotate_files(arguments, done, known, weights.rule)
    except BrokenPipeError:
        raise
    except (OSError, ValueError, ImportError, MemoryError) as error:
        return fail(1, error)
    if stopped:
        further = "; the same command continues" if arguments.output else ""
        return fail(130, f"stopped after {len(done)} of {len(items)} files{further}")
    return print_results(arguments, done, weights, settings) or status


def score_files(
    arguments: Namespace, items: Iterable[Item], weights: Weights, settings: str, results: dict[str, Result]
) -> None:
    """Fill `results`, by path; print a row for each video and photograph; write the tables now and then."""
    head, saved = summary.ROW_HEAD, -SAVE_EVERY  # so that a folder that cannot be written shows at once
    names = ("frames", "start", "end", "everyone", "align", "jobs", "dask")
    options: dict[str, Any] = {name: getattr(arguments, name) for name in names}
    scored = score(items, weights, **options, known=dict(results), progress=not arguments.quiet)

    def save() -> None:
        if arguments.output:
            found = list(results.values())
            outcome = summary.describe_outcome(found, weights, settings)
            write_tables(arguments.output, found, weights.rule, outcome)

    try:
        for result in scored:
            results[str(result.item.path)] = result
            if result.item.kind != "image" and not arguments.quiet:
                tqdm.write(head + summary.format_row(result, weights.rule))
                head = ""
            if time.monotonic() - saved >= SAVE_EVERY:
                save()
                saved = time.monotonic()
    finally:
        save()


def annotate_files(arguments: Namespace, results: list[Result], known: dict[str, Result], rule: Rule) -> int:
    """Write the annotated copies that are not there; return 1 if one cannot be written, else 0."""
    from weights.scoring.annotate import annotate

    status = 0
    for result in results if arguments.quiet else show_progress(results, len(results), "copy"):
        item, old = result.item, known.get(str(result.item.path))
        copy = arguments.output / COPIES / f"{item.name}{'.mp4' if item.kind == 'video' else '.png'}"
        if result.error or (copy.exists() and old and old.stamp == result.stamp):
            continue
        copy.unlink(missing_ok=True)  # of an older file: it must not stay if this one fails
        if note := annotate(result, copy, rule, arguments.options):
            fail(1, f"{printable(item.path)}: {note}")
        status |= not copy.exists()
    return status


def print_results(arguments: Namespace, done: list[Result], weights: Weights, settings: str) -> int:
    """Print what was found; return the exit status."""
    alarms = [r for r in done if r.verdict in ALARMING[arguments.fail_on or "deepfake"]]
    unread = [r for r in done if r.verdict == "error"]
    for r in unread:
        print(f"skipped {printable(r.item.path)}: {r.error}", file=sys.stderr)
    if not arguments.quiet:
        summary.print_outcome(done, summary.describe_outcome(done, weights, settings), weights)
    for r in alarms if arguments.quiet else ():
        print(f"{r.score:.4f}  {r.verdict:<9}  {summary.name_file(r)}")
    return 3 if arguments.fail_on and alarms else int(bool(unread))


def parse_arguments(argv: Sequence[str] | None) -> Namespace:
    parser = pipeline.make_parser(__doc__, "python3 deepfakes_images.py clip.mp4 --output results")
    # fmt: off
    add = parser.add_argument
    add("paths", nargs="*", type=Path, default=[Path("test_images")], metavar="PATH", help="images, videos and folders (default: test_images)")
    add = parser.add_argument_group("verdicts").add_argument
    add("--weights", default=DEFAULT, metavar="NAME", help="weights, by name or path (default: %(default)s)")
    add("--threshold", type=float, metavar="P", help="call lower scores deepfake, all others real (default: as the weights' card says)")
    group = parser.add_argument_group("which faces")
    either = group.add_mutually_exclusive_group().add_argument
    either("--align", action="store_true", default=None, help="all images are photographs: find their faces first (default: decided for each)")
    either("--crops", action="store_false", dest="align", help="all images are face crops")
    pipeline.add_sampling_options(group)
    group.add_argument("--everyone", action="store_true", help="score all faces in a frame (default: the largest)")
    add = parser.add_argument_group("output").add_argument
    add("--output", type=Path, metavar="FOLDER", help="write tables and a report; the same command continues")
    add("--force", action="store_true", help="begin anew in --output")
    add("--annotate", action="store_true", help="also write copies with boxes, scores and verdicts to --output")
    add("--explain", action="store_true", help="also show in the report where in a face the evidence lies (a few seconds each)")
    add("--quiet", action="store_true", help="print only unreadable files and those that --fail-on names (default: deepfakes)")
    add("--fail-on", choices=ALARMING, metavar="VERDICT", help="end with status 3 if a file is called deepfake or, with 'uncertain', is uncertain")
    add = parser.add_argument_group("parallel work on videos").add_argument
    add("--jobs", type=pipeline.read_count, default=1, metavar="N", help="processes to use (default: %(default)s)")
    add("--dask", metavar="ADDRESS", help="use the Dask cluster with this scheduler")
    # fmt: on
    arguments = parser.parse_args(argv)
    for name in ("annotate", "explain", "force"):
        if getattr(arguments, name) and not arguments.output:
            parser.error(f"--{name} must come with --output: it says where")
    if arguments.threshold is not None and not 0 <= arguments.threshold <= 1:
        parser.error(f"--threshold must be from 0 to 1, not {arguments.threshold:g}")
    sampling = arguments.frames, arguments.start, arguments.end
    arguments.options = FaceOptions(*sampling, everyone=arguments.everyone)
    return arguments


if __name__ == "__main__":
    pipeline.run(main)
