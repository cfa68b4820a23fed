"""Cut the faces out of videos, upright and square, as the networks are trained on them.

Without arguments: the faces of video.mp4 go to output/. The faces of a single video go to the output
folder itself, those of several videos, or of a folder of videos, to a subfolder for each. Beside the
faces lie faces.csv (what was found where) and contact_sheet.png (all at a glance, the doubtful in red):
delete the bad ones before you train. Run the same command again to continue after an interruption.

Exit status: 0 every video gave faces, 1 some did not, 2 nothing to do or wrong usage, 130 Ctrl-C.
"""

import signal

if __name__ == "__main__":  # Ctrl-C while modules are imported is no traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import os
import shutil
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

import pipeline
from pipeline import FaceOptions, count, fail, printable, show_progress
from training.extraction import Extraction, extract_video


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    items, passed_over = pipeline.find_files(arguments.videos)
    videos = [item for item in items if item.kind == "video" or item.path in arguments.videos]
    passed_over.update(item.path.suffix.lower() for item in items if item not in videos)
    if passed_over:
        print(pipeline.describe_passed_over(passed_over, "videos"), file=sys.stderr)
    if not any(os.path.exists(item.path) for item in videos):
        searched = ", ".join(map(printable, arguments.videos))
        return fail(2, f"no video in {searched}: name one: python3 extract_faces.py clip.mp4")
    single = len(videos) == 1 and videos[0].path == arguments.videos[0]
    output = Path(os.path.abspath(arguments.output))
    if not single and (output / pipeline.RECORD_NAME).exists():
        return fail(2, f"{arguments.output} holds the faces of one video: several need another --output")
    options = FaceOptions(**{name: getattr(arguments, name) for name in FaceOptions._fields})
    run = f"{os.getpid()}-"
    given: dict[str, Any] = {"options": options, "force": arguments.force, "run": run}
    if single and not arguments.dask:
        given["watch"] = lambda frames: show_progress(frames, arguments.frames, "frame")
    calls = [(Path(os.path.abspath(item.path)), output if single else output / item.name) for item in videos]
    extractions = pipeline.run_jobs(extract_video, calls, given, arguments.jobs, arguments.dask)
    failed = 0
    try:
        watched = extractions if single else show_progress(extractions, len(videos), "video")
        for item, found in zip(videos, watched, strict=True):
            extraction = found or Extraction(error=pipeline.PROCESS_DIED)
            failed += not extraction.faces
            line = f"{printable(item.path)}: {describe_extraction(extraction)}"
            tqdm.write(line, file=sys.stderr if extraction.error else sys.stdout)
    except KeyboardInterrupt:
        for parent in {folder.parent for _, folder in calls}:  # what stopped processes have left
            for unfinished in parent.glob(f".writing-{run}*"):
                shutil.rmtree(unfinished, ignore_errors=True)
        return fail(130, "stopped; the same command continues")
    except BrokenPipeError:
        raise
    except (OSError, ValueError, ImportError) as error:
        return fail(1, pipeline.describe_error(error))
    return 1 if failed else 0


def describe_extraction(extraction: Extraction) -> str:
    """Return what came of a video, in one line."""
    if extraction.error:
        return extraction.error
    found = f"{count(extraction.faces, 'face')} in {count(extraction.frames, 'frame')}"
    parts = [found, *([f"{extraction.people} people"] * (extraction.people > 1))]
    parts.append(f"{extraction.empty} without a face")
    for number, what in ((extraction.refused, "too small"), (extraction.doubtful, "doubtful")):
        parts += [f"{number} {what}"] * bool(number)
    line = ", ".join(parts) + (" (done before)" if extraction.before else "")
    return f"{line} ({extraction.note})" if extraction.note else line


def parse_arguments(argv: Sequence[str] | None) -> Namespace:
    # fmt: off
    parser = pipeline.make_parser(__doc__, "python3 extract_faces.py clip.mp4 --output faces/clip --frames 60")
    add = parser.add_argument
    add("videos", nargs="*", type=Path, default=[Path("video.mp4")], metavar="VIDEO", help="videos and folders of videos (default: video.mp4)")
    add("--output", type=Path, default=Path("output"), metavar="FOLDER", help="folder to write to (default: %(default)s)")
    add("--force", action="store_true", help="replace the faces that an output folder holds")
    pipeline.add_sampling_options(parser.add_argument_group("which frames"))
    add("--keyframes", action="store_true", help="sample only intra-coded frames")
    add("--everyone", action="store_true", help="all faces, in a folder per person (default: the largest in each frame)")
    add("--min-size", type=pipeline.read_count, default=0, metavar="PIXELS", help="skip smaller faces (a crop is 1.3 times as wide); 80 or more is faster (default: %(default)s)")
    add("--jobs", type=pipeline.read_count, default=1, metavar="N", help="processes to use (default: %(default)s)")
    add("--dask", metavar="ADDRESS", help="use the Dask cluster with this scheduler")
    # fmt: on
    return parser.parse_args(argv)


if __name__ == "__main__":
    pipeline.run(main)
