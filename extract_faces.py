"""Cut the faces out of videos, upright and square, as the networks are trained on them.

Without arguments: the faces of video.mp4 go to output/. The faces of a single video go to the output
folder itself, those of several videos, or of a folder of videos, to a subfolder for each. Beside the
faces lie faces.csv (what was found where) and contact_sheet.png (all at a glance, the doubtful in red):
delete the bad ones before you train. Run the same command again to continue after an interruption.

Exit status: 0 every video gave faces, 1 some did not, 2 nothing to do or wrong usage.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

import pipeline
from pipeline import FaceOptions, count, fail, printable
from training.extraction import Extraction, extract_video

BAR: dict[str, Any] = {"disable": None, "leave": False}


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    videos, passed_over = pipeline.find_videos(arguments.videos)
    if passed_over:
        print(pipeline.describe_passed_over(passed_over, "videos"), file=sys.stderr)
    if not any(os.path.exists(path) for path, _ in videos):
        reason = pipeline.describe_missing(arguments.videos, "video")
        return fail(2, f"{reason}: put a video there, or name one: python3 extract_faces.py clip.mp4")
    single = len(videos) == 1 and videos[0][0] == arguments.videos[0]
    folders = [arguments.output if single else arguments.output / name for _, name in videos]
    # the longest name that is written beside a folder of faces
    output = Path(os.path.realpath(arguments.output))
    longest = output.parent / f".writing-{output.name}.lock"
    if obstacle := pipeline.find_obstacle(longest if single else output / "video"):
        return fail(2, f"--output {arguments.output}: {obstacle}")
    if not single and (arguments.output / pipeline.RECORD_NAME).exists():
        return fail(
            2, f"--output {arguments.output} holds the faces of a video: name another folder for several"
        )
    options = {name: getattr(arguments, name) for name in ("jpeg", "drop_doubtful", "force")}
    options["options"] = FaceOptions(**{name: getattr(arguments, name) for name in FaceOptions._fields})
    if single and not arguments.dask:  # show progress over its frames
        total = None if arguments.every else arguments.frames
        options["watch"] = lambda frames: tqdm(frames, total=total, unit="frame", **BAR)
    calls = [
        (Path(os.path.abspath(path)), Path(os.path.abspath(folder)))
        for (path, _), folder in zip(videos, folders, strict=True)
    ]
    extractions = pipeline.run_jobs(extract_video, calls, options, arguments.jobs, arguments.dask)
    failed = 0
    try:
        watched = tqdm(extractions, total=len(videos), unit="video", **BAR | {"disable": single or None})
        for (path, _), folder, found in zip(videos, folders, watched, strict=True):
            extraction = found or Extraction(path, folder, error=pipeline.PROCESS_DIED)
            # all of a video's faces may have been deleted since
            failed += not (extraction.faces or (extraction.before and extraction.people))
            line = f"{printable(path)}: {describe_extraction(extraction, bool(arguments.only))}"
            tqdm.write(line, file=sys.stderr if extraction.error else sys.stdout)
    except BrokenPipeError:
        raise
    except (OSError, ValueError, ImportError) as error:
        return fail(1, pipeline.describe_error(error))
    return 1 if failed else 0


def describe_extraction(extraction: Extraction, only: bool) -> str:
    """Return what came of a video, in one line."""
    if extraction.error:
        return extraction.error
    parts = [
        f"{count(extraction.faces, 'face')} in {count(extraction.frames, 'frame')}",
        f"{extraction.empty} without {'that person' if only else 'a face'}",
    ]
    if extraction.people > 1:
        parts[0] += f", {extraction.people} people"
    if extraction.refused:
        parts.append(f"{extraction.refused} too small or too blurred")
    if extraction.doubtful:
        parts.append(f"{extraction.doubtful} doubtful")
    line = ", ".join(parts) + (" (done before)" if extraction.before else "")
    return f"{line} ({extraction.note})" if extraction.note else line


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = pipeline.make_parser(
        __doc__, "[VIDEO ...] [options]", "python3 extract_faces.py clip.mp4 --output faces/clip --frames 60"
    )
    whole, amount = pipeline.read_count, pipeline.read_amount
    # fmt: off
    add = parser.add_argument
    add("videos", nargs="*", type=Path, default=[Path("video.mp4")], metavar="VIDEO", help="videos and folders of videos (default: video.mp4)")
    add("--output", type=Path, default=Path("output"), metavar="FOLDER", help="folder to write to (default: %(default)s)")
    add("--force", action="store_true", help="replace the faces that an output folder holds")
    group = parser.add_argument_group("which frames")
    add = group.add_argument
    pipeline.add_sampling_options(group)
    add("--keyframes", action="store_true", help="sample only intra-coded frames")
    add = parser.add_argument_group("which faces").add_argument
    add("--detector", choices=("hog", "cnn"), default="hog", help="cnn finds more, but is slow without a GPU (default: %(default)s)")
    add("--everyone", action="store_true", help="all faces, in a folder per person (default: the largest)")
    add("--only", type=read_picture, metavar="PICTURE", help="only the person whose face a picture shows")
    add("--min-size", type=amount, default=0.0, metavar="PIXELS", help="skip smaller faces (a crop is 1.3 times as wide); 80 or more is faster (default: %(default)s)")
    add("--min-sharpness", type=amount, default=0.0, metavar="X", help="skip faces less sharp than this, see faces.csv (default: %(default)s)")
    add("--drop-doubtful", action="store_true", help="move doubtful faces to the subfolder doubtful/")
    add("--jpeg", type=read_quality, metavar="QUALITY", help="write JPEG of this quality, 1 to 100 (default: PNG)")
    add = parser.add_argument_group("parallel work").add_argument
    add("--jobs", type=whole, default=1, metavar="N", help="processes to use (default: %(default)s)")
    add("--dask", metavar="ADDRESS", help="use the Dask cluster with this scheduler")
    # fmt: on
    arguments = pipeline.parse(parser, argv)
    real = os.path.realpath(arguments.output)
    if os.path.islink(real) or (os.path.exists(real) and not os.path.isdir(real)):  # a link to itself, a file
        parser.error(f"--output {arguments.output} must be a folder")
    pipeline.check_times(parser, arguments)
    if arguments.only and arguments.everyone:
        parser.error("--only: must not come with --everyone")
    return arguments


def read_picture(text: str) -> str:
    """Return the absolute path of a picture of one person; refuse early what is none."""
    try:
        pipeline.encode_person(Path(text))
    except (OSError, ValueError, ImportError) as error:
        reason = pipeline.describe_error(error)
        raise argparse.ArgumentTypeError(reason if text in reason else f"{text}: {reason}") from error
    return os.path.abspath(text)


def read_quality(text: str) -> int:
    value = pipeline.read_count(text)
    if value > 100:
        raise argparse.ArgumentTypeError(f"must be from 1 to 100, not {text}")
    return value


if __name__ == "__main__":
    pipeline.run(main)
