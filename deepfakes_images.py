"""Score faces in images and videos: 1 = natural, 0 = deepfake/f2f.

Without arguments: every image in test_images and its subfolders. Images must be face crops, as
extract_faces.py writes them; of photographs, --align finds the faces first. In videos the faces are
found as extract_faces.py finds them. A video's score is the mean of its faces' scores; where several
people appear, the lowest person's mean. Prints a row per image if there are few, a row per folder and
per video, the average score and the percentage classified as deepfake/f2f; where folders are named df
and real, also how often that is right.

Exit status: 0 all were scored, 1 some were not (unreadable, or no face), 2 nothing to score or wrong usage,
130 stopped with Ctrl-C.
"""

import contextlib
import os
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

import pipeline
from pipeline import Item, fail, printable
from weights import Predict, Rule, Weights, find_weights, join_weights, load_predictor
from weights.scoring.annotate import score_file, try_annotating
from weights.scoring.evidence import measure_evidence, plot_evidence
from weights.scoring.figures import plot_results
from weights.scoring.outputs import (
    FIGURE_SUFFIXES,
    check_folders,
    check_outputs,
    read_csv_target,
    read_figure_target,
    read_json_target,
    read_page_target,
)
from weights.scoring.results import read_json, write_csv, write_json
from weights.scoring.scores import (
    LOST_NOTE,
    NO_NOTE,
    NOT_SQUARE,
    SMALL,
    Result,
    load_scored_face,
    score_crops,
    warn_of_crop,
)
from weights.scoring.verdicts import decide, judge_face, list_counting, verdict_of
from weights.scoring.words import describe_outcome, describe_settings, format_video, name_parts, print_report

Files = list[tuple[Item, str]]  # see pipeline.find_media
Results = dict[str, Result]  # by path

DEFAULT = "Meso4_DF_F2F"  # weights
SEARCH = ("frames", "every", "start", "end", "everyone", "min_size")  # arguments that are FaceOptions
SAVE_EVERY = 10  # seconds
HINTS = {  # for the warnings and notes of face crops
    NOT_SQUARE: "are not square, so they are hardly face crops: --align finds the faces in photographs",
    LOST_NOTE: "are named as extract_faces.py names faces, but lack its comment on how wide they were cut; other "
    "programs drop it. They were seen whole, which shifts their scores: extract them again, with --force",
    SMALL: "show faces smaller than those that the weights were tested on: their verdicts are unsure",
    NO_NOTE: "lack the comment by which extract_faces.py marks face crops. Scores mean something only for face "
    "crops; for photographs use --align",
}
TARGETS = ("report", "csv", "json", "plot")  # arguments that are files to write
BAR: dict[str, Any] = {"disable": None, "leave": False, "delay": 1}


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    files, passed_over = pipeline.find_media(arguments.paths)
    if passed_over:
        print(pipeline.describe_passed_over(passed_over), file=sys.stderr)
    if not any(os.path.lexists(item.path) for item, _ in files):
        return fail(2, f"nothing to score: {pipeline.describe_missing(arguments.paths, 'image or video')}")
    searched = [(item, name) for item, name in files if arguments.align or item.is_video]
    crops = [] if arguments.align else [item for item, _ in files if not item.is_video]
    try:
        check_targets(arguments, files)
        found = [find_weights(name) for name in arguments.weights or [DEFAULT]]
        # absolute paths, also for other processes
        weights = join_weights([one._replace(path=Path(os.path.abspath(one.path))) for one in found])
        if arguments.threshold is not None:
            # what the card says of errors holds for its own bounds
            measured = ("calibration", "validation")
            card = {name: value for name, value in weights.card.items() if name not in measured}
            rule = Rule(arguments.threshold, arguments.threshold)
            weights = weights._replace(rule=rule, card=card)
        predict = load_predictor(weights)
        options = pipeline.FaceOptions(**{name: getattr(arguments, name) for name in SEARCH})
        settings = describe_settings(weights, options, arguments.align)
        results = read_known(arguments, weights, settings, files)  # filled below
    except (OSError, ValueError) as error:
        return fail(2, error)

    order = [str(item.path) for item in (*crops, *(item for item, _ in searched))]
    save, status = make_saver(arguments, weights, settings, results, order), 0
    try:
        score_images(crops, weights, predict, results, save)
        score_videos(arguments, searched, weights, options, results, save)
        if arguments.annotate:
            annotate_images(arguments.annotate, files, results, weights.rule)
        if arguments.explain:
            explain(arguments.explain, files, results, weights, score_lowest(predict))
        if arguments.plot:
            plot_results([results[path] for path in order], weights, arguments.plot)
    except BaseException as error:
        expected = isinstance(error, (OSError, ValueError, ImportError, MemoryError))
        if not expected or isinstance(error, BrokenPipeError):  # interrupted, or nobody reads on
            with contextlib.suppress(OSError):
                save(now=True)  # what is done
            if isinstance(error, KeyboardInterrupt):
                further = "; add --resume to continue" if arguments.json else ""
                return fail(130, f"stopped after {len(results)} of {len(order)} files{further}")
            raise
        status = fail(1, pipeline.describe_error(error))
    done = [results[path] for path in order if path in results]
    summary = describe_outcome(done, weights, settings)
    try:
        save(now=True)
    except OSError as error:
        status = fail(1, error)
    print_report(done, summary, weights)
    if arguments.report and done:
        status = try_reporting(arguments.report, done, weights, predict, settings) or status
    return status or int(any(r.score is None or r.error for r in done))


def check_targets(arguments: Namespace, files: Files) -> None:
    """Raise ValueError if something that is to be written cannot be, or would do harm."""
    folders = [arguments.annotate, arguments.explain, arguments.plot and arguments.plot.parent]
    check_folders(filter(None, folders), arguments.paths)
    check_outputs(list_outputs(arguments, files), [item.path for item, _ in files])


def list_outputs(arguments: Namespace, files: Files) -> list[Path]:
    """Return all files to write."""
    outputs = [target for name in TARGETS if (target := getattr(arguments, name))]
    if arguments.annotate:
        outputs += [name_copy(arguments.annotate, item, name) for item, name in files]
    if arguments.explain:
        outputs += [arguments.explain / f"{name}.png" for _, name in files]
    return outputs


def read_known(arguments: Namespace, weights: Weights, settings: str, files: Files) -> Results:
    """Return the Results that the run to --resume has left in --json."""
    if not arguments.resume or not arguments.json.exists():
        return {}
    results, before = read_json(arguments.json)
    if results and before != settings:
        raise ValueError(
            f"{arguments.json} was scored with {before}, not {settings}: resume with the same settings"
        )
    named = {os.path.realpath(item.path) for item, _ in files}
    left_out = [path for path in results if os.path.lexists(path) and os.path.realpath(path) not in named]
    if left_out:
        raise ValueError(
            f"{arguments.json} also holds results of {pipeline.count(len(left_out), 'file')} not given this "
            f"time, {left_out[0]} for one: give them too, or choose another --json"
        )
    known = {}
    for item, name in files:
        result = results.get(str(item.path))
        if result is None or result.error or is_newer(item.path, arguments.json):
            continue
        kind = "video" if item.is_video else "photo" if arguments.align else "image"
        missing_copy = (
            arguments.annotate and kind != "image" and not name_copy(arguments.annotate, item, name).exists()
        )
        if result.kind == kind and not missing_copy:
            known[str(item.path)] = judge_anew(result, weights)._replace(item=item)
    return known


def is_newer(path: Path, table: Path) -> bool:
    """Return whether a file changed, was replaced (its ctime tells) or vanished after the table was written."""
    if not path.exists():
        return True
    status = path.stat()
    return max(status.st_mtime, status.st_ctime) > table.stat().st_mtime


def judge_anew(result: Result, weights: Weights) -> Result:
    """Return a Result of an earlier run with the verdict that the weights' card gives now."""
    if result.score is None:
        return result
    if result.kind == "image":
        verdict = verdict_of(result.score, weights.rule.threshold)
        return warn_of_crop(result._replace(verdict=verdict), weights.view, weights.rule)
    score, verdict, warning = decide(result.faces, result.kind, weights.rule)
    return result._replace(score=score, verdict=verdict, warning=warning)


def make_saver(
    arguments: Namespace, weights: Weights, settings: str, results: Results, order: list[str]
) -> Callable[..., None]:
    """Return the function that writes --csv and --json every few seconds, or at once with now=True."""
    saved = time.monotonic()

    def save(now: bool = False) -> None:
        nonlocal saved
        if not now and time.monotonic() - saved < SAVE_EVERY:
            return
        done = [results[path] for path in order if path in results]
        try:
            if arguments.json:
                write_json(arguments.json, done, weights.rule, describe_outcome(done, weights, settings))
        finally:  # one that fails does not cost the other
            if arguments.csv:
                write_csv(arguments.csv, done, weights.rule, settings)
        saved = time.monotonic()

    return save


def score_images(
    crops: list[Item], weights: Weights, predict: Predict, results: Results, save: Callable[[], None]
) -> None:
    todo = [item for item in crops if str(item.path) not in results]
    scored = score_crops(todo, predict, weights.view, weights.rule.threshold, names=weights.names)
    for result in tqdm(scored, total=len(todo), unit="image", **BAR):
        results[str(result.item.path)] = warn_of_crop(result, weights.view, weights.rule)
        save()
    found = [results[str(item.path)] for item in crops]
    warned = Counter(text for result in found for text in (result.warning, result.note))
    for warning, hint in HINTS.items():
        if warned[warning]:
            print(
                f"hint, for {warned[warning]} of {pipeline.count(len(crops), 'image')}: they {hint}",
                file=sys.stderr,
            )


def score_videos(
    arguments: Namespace,
    searched: Files,
    weights: Weights,
    options: pipeline.FaceOptions,
    results: Results,
    save: Callable[[], None],
) -> None:
    """Score videos and photographs; print a row for each as soon as it is done."""
    if not searched:
        return
    todo = [(item, name) for item, name in searched if str(item.path) not in results]
    calls = [
        (
            item._replace(path=Path(os.path.abspath(item.path))),
            arguments.annotate and Path(os.path.abspath(name_copy(arguments.annotate, item, name))),
        )
        for item, name in todo
    ]
    given: dict[str, Any] = {"weights": weights, "options": options}
    if arguments.jobs == 1 and not arguments.dask:  # show progress over a video's frames
        total = None if arguments.every else arguments.frames
        given["watch"] = lambda frames: tqdm(frames, total=total, unit="frame", **BAR)
    found = pipeline.run_jobs(score_file, calls, given, arguments.jobs, arguments.dask)
    print(
        f" score  faces  %deepfake  verdict    {name_parts(weights.names)}{'photograph' if arguments.align else 'video'}"
    )
    bar = tqdm(total=len(searched), unit="file", **BAR)
    for item, _ in searched:
        path = str(item.path)
        if path not in results:
            died = Result(item, None, "error", pipeline.PROCESS_DIED, "photo" if arguments.align else "video")
            results[path] = (next(found) or died)._replace(item=item)
        tqdm.write(format_video(results[path], weights))
        bar.update()
        save()
    bar.close()
    print()


def name_copy(folder: Path, item: Item, name: str) -> Path:
    """Return the path of a file's annotated copy."""
    return folder / f"{name}{'.mp4' if item.is_video else '.png'}"


def annotate_images(folder: Path, files: Files, results: Results, rule: Rule) -> None:
    for item, name in files:
        result = results[str(item.path)]
        if result.kind == "image" and result.score is not None:
            error = try_annotating(result, name_copy(folder, item, name), rule)
            results[str(item.path)] = add_error(result, error)


def add_error(result: Result, error: str) -> Result:
    """Return a Result with what went wrong beside the score, and what had gone wrong before."""
    return result._replace(error=", ".join(filter(None, (result.error, error))))


def score_lowest(predict: Predict) -> Predict:
    """Return a Predict that gives one score for each face, the lowest by several weights."""
    return lambda faces: predict(faces).reshape(len(faces), -1).min(axis=1)


def explain(folder: Path, files: Files, results: Results, weights: Weights, predict: Predict) -> None:
    """Write the map of evidence of every image and of every video's lowest face."""
    for item, name in tqdm(files, unit="map", **BAR):
        result = results[str(item.path)]
        if result.score is None:
            continue
        lowest = next(iter(list_counting(result.faces, result.kind, weights.rule)), None)
        face = load_scored_face(result, lowest, weights.view)
        if face is None:  # the file is gone
            continue
        score = lowest.score if lowest else result.score
        verdict = judge_face(lowest, weights.rule) if lowest else result.verdict
        when = f", at {lowest.time:.2f} s" if lowest and result.kind == "video" else ""
        title = f"{printable(item.path.name)}{when}: {score:.3f}, {verdict}"
        patches = measure_evidence(face, predict)
        try:
            plot_evidence(face, patches, weights.card, title, folder / f"{name}.png")
        except OSError as error:
            results[str(item.path)] = add_error(result, f"no map: {error}")


def try_reporting(path: Path, done: list[Result], weights: Weights, predict: Predict, settings: str) -> int:
    """Write the report; return the exit status."""
    from weights.scoring.report import write_report

    def watch(results: Iterable[Result]) -> Iterable[Result]:
        return tqdm(results, total=len(done), desc="report", unit="file", **BAR)

    try:
        write_report(path, done, weights, score_lowest(predict), settings, watch)
        return 0
    except (OSError, ValueError, MemoryError) as error:
        return fail(1, f"no report: {pipeline.describe_error(error)}")


# --- arguments ------------------------------------------------------------------------------------


def parse_arguments(argv: Sequence[str] | None) -> Namespace:
    parser = pipeline.make_parser(
        __doc__, "[PATH ...] [options]", "python3 deepfakes_images.py clip.mp4 --report report.html"
    )
    count = pipeline.read_count
    # fmt: off
    add = parser.add_argument
    add("paths", nargs="*", default=["test_images"], metavar="PATH", help="images, videos and folders of them (default: test_images)")
    add("--weights", action="append", metavar="FILE", help=f"a name in weights/, or a .tflite, .weights.h5, .h5 or .hdf5 file; repeat the option to use several sets, which must look at the same part of a crop: the lowest score counts, and no verdict is uncertain (default: {DEFAULT})")
    add("--threshold", type=pipeline.read_share, metavar="P", help="scores below it are called deepfake, all others real; nothing is uncertain (default: as the weights' card says)")
    group = parser.add_argument_group("faces in videos, and in photographs with --align")
    add = group.add_argument
    add("--align", action="store_true", help="the images are photographs: find their faces")
    pipeline.add_sampling_options(group)
    add("--everyone", action="store_true", help="score all faces of a frame (default: the largest)")
    add("--min-size", type=pipeline.read_amount, default=0.0, metavar="PIXELS", help="skip smaller faces; 80 or more is faster (default: %(default)s)")
    add = parser.add_argument_group("output").add_argument
    add("--report", type=read_page_target, metavar="FILE", help="write everything, with faces, timelines and maps, as one page to read, mail or print (.html)")
    add("--csv", type=read_csv_target, metavar="FILE", help="write a row per image, video and face")
    add("--json", type=read_json_target, metavar="FILE", help="write these rows and the summary")
    add("--resume", action="store_true", help="continue from what --json holds")
    add("--plot", type=read_figure_target, metavar="FILE", help=f"draw all scores, faces, histogram, ROC curve and videos' scores over time ({', '.join(FIGURE_SUFFIXES)})")
    add("--annotate", type=Path, metavar="FOLDER", help="write copies with boxes, scores and verdicts")
    add("--explain", type=Path, metavar="FOLDER", help="write maps of where in the faces the evidence lies")
    add = parser.add_argument_group("parallel work on videos").add_argument
    add("--jobs", type=count, default=1, metavar="N", help="processes to use (default: %(default)s)")
    add("--dask", metavar="ADDRESS", help="use the Dask cluster with this scheduler")
    # fmt: on
    arguments = pipeline.parse(parser, argv)
    pipeline.check_times(parser, arguments)
    if arguments.resume and not arguments.json:
        parser.error("--resume needs --json: the file to continue from")
    return arguments


if __name__ == "__main__":
    pipeline.run(main)
