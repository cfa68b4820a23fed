"""Cut the faces out of videos, upright and square, as the networks are trained on them.

Without arguments: video.mp4, its faces go to output/. A single video's faces go to the output folder
itself, those of several, or of a folder of videos, to a folder for each in it. Beside the faces:
faces.csv (what was found where) and contact_sheet.png (all at a glance, the doubtful in red). Delete
the bad ones before you train. Run again, it goes on where it was stopped.

Exit status: 0 every video gave faces, 1 some did not, 2 nothing to do or wrong usage.
"""

import argparse
import os
import sys
from pathlib import Path

from tqdm import tqdm

import pipeline
from training.extraction import Extraction, extract_video


def main() -> int:
    pipeline.open_streams()
    arguments = parse_arguments()
    videos = pipeline.find_videos(arguments.videos)
    if not any(os.path.exists(path) for path, _ in videos):
        return fail(2, f"no video in {', '.join(map(pipeline.printable, arguments.videos))}")
    single = len(videos) == 1 and videos[0][0] == arguments.videos[0]
    folders = [arguments.output if single else arguments.output / name for _, name in videos]
    options = {
        "search": pipeline.FaceOptions(
            **{name: getattr(arguments, name) for name in pipeline.FaceOptions._fields}
        ),
        "jpeg": arguments.jpeg,
        "drop_doubtful": arguments.drop_doubtful,
        "force": arguments.force,
    }
    bar = {"disable": None, "leave": False}
    if single and not arguments.dask:  # its frames are what there is to watch
        total = None if arguments.every else arguments.frames
        options["watch"] = lambda frames: tqdm(frames, total=total, unit="frame", **bar)
    calls = [
        (Path(os.path.abspath(path)), Path(os.path.abspath(folder)))
        for (path, _), folder in zip(videos, folders, strict=True)
    ]
    extractions = pipeline.run_jobs(extract_video, calls, options, arguments.jobs, arguments.dask)
    failed = 0
    try:
        watched = tqdm(extractions, total=len(videos), unit="video", **bar | {"disable": single or None})
        for (path, _), folder, found in zip(videos, folders, watched, strict=True):
            extraction = found or Extraction(path, folder, error=pipeline.PROCESS_DIED)
            failed += not extraction.faces
            tqdm.write(
                f"{pipeline.printable(path)}: {describe(extraction)}",
                file=sys.stderr if extraction.error else sys.stdout,
            )
    except BrokenPipeError:
        raise
    except (OSError, ValueError, ImportError) as error:
        return fail(1, pipeline.describe_error(error))
    return 1 if failed else 0


def describe(extraction: Extraction) -> str:
    """Return what came of a video, in one line."""
    if extraction.error:
        return extraction.error
    parts = [
        f"{count(extraction.faces, 'face')} in {count(extraction.frames, 'frame')}",
        f"{extraction.empty} without a face",
    ]
    if extraction.people > 1:
        parts[0] += f", {extraction.people} people"
    if extraction.refused:
        parts.append(f"{extraction.refused} too small or too blurred")
    if extraction.doubtful:
        parts.append(f"{extraction.doubtful} doubtful")
    return ", ".join(parts) + (" (done before)" if extraction.before else "")


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def fail(status: int, reason: object) -> int:
    print(f"extract_faces.py: {reason}", file=sys.stderr)
    return status


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shown = "(default: %(default)s)"
    parser.add_argument(
        "videos",
        nargs="*",
        type=Path,
        default=[Path("video.mp4")],
        metavar="VIDEO",
        help="videos and folders of videos (default: video.mp4)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("output"), metavar="FOLDER", help=f"where to {shown}"
    )
    parser.add_argument("--force", action="store_true", help="replace what an output folder holds")

    frames = parser.add_argument_group("which frames")
    frames.add_argument(
        "--frames",
        type=pipeline.read_count,
        default=30,
        metavar="N",
        help=f"to sample, evenly spread {shown}",
    )
    frames.add_argument(
        "--every", type=pipeline.read_count, default=0, metavar="N", help="instead: sample every Nth frame"
    )
    frames.add_argument(
        "--start",
        type=pipeline.read_number,
        default=0.0,
        metavar="SECONDS",
        help=f"time of the first {shown}",
    )
    frames.add_argument(
        "--end",
        type=pipeline.read_number,
        metavar="SECONDS",
        help="time of the last (default: the video's end)",
    )
    frames.add_argument("--keyframes", action="store_true", help="sample intra-coded frames only")

    faces = parser.add_argument_group("which faces")
    faces.add_argument(
        "--detector",
        choices=("hog", "cnn"),
        default="hog",
        help=f"cnn finds more, slowly without GPU {shown}",
    )
    faces.add_argument(
        "--everyone", action="store_true", help="all faces, in a folder per person (default: the largest)"
    )
    faces.add_argument(
        "--min-size",
        type=pipeline.read_number,
        default=0.0,
        metavar="PIXELS",
        help=f"pass over faces smaller than this (a crop is 1.3 x as wide); from 80 on, faster {shown}",
    )
    faces.add_argument(
        "--min-sharpness",
        type=pipeline.read_number,
        default=0.0,
        metavar="X",
        help=f"pass over faces more blurred than this, see faces.csv {shown}",
    )
    faces.add_argument(
        "--drop-doubtful", action="store_true", help="move faces that stand out to a subfolder doubtful/"
    )
    faces.add_argument(
        "--jpeg", type=read_quality, metavar="QUALITY", help="write JPEG, 1 to 100 (default: PNG)"
    )

    work = parser.add_argument_group("how to work")
    work.add_argument(
        "--jobs",
        type=pipeline.read_count,
        default=1,
        metavar="N",
        help=f"videos at once, a process each {shown}",
    )
    work.add_argument("--dask", metavar="ADDRESS", help="work on the Dask cluster with this scheduler")

    arguments = parser.parse_args()
    if "" in sys.argv:
        parser.error("an argument is empty: a variable that is not set?")
    if arguments.output.exists() and not arguments.output.is_dir():
        parser.error(f"--output {arguments.output}: wanted a folder")
    if arguments.end is not None and not arguments.start <= arguments.end:
        parser.error(f"--end {arguments.end:g}: wanted --start, {arguments.start:g}, or more")
    return arguments


def read_quality(text: str) -> int:
    value = pipeline.read_count(text)
    if value > 100:
        raise argparse.ArgumentTypeError(f"{text}: wanted 1 to 100")
    return value


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except FileNotFoundError as error:  # other ones are told where they occur
        sys.exit(fail(2, f"the working folder is gone ({pipeline.describe_error(error)})"))
    except BrokenPipeError:  # whoever reads the lines, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
