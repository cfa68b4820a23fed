"""Cut the faces out of a video, upright and square, as the networks are trained on them.

Without arguments: video.mp4, its faces go to output/. The largest face of each of 30 frames, evenly
spread, is written as a PNG named after its frame. Delete the bad ones by hand before training.

Exit status: 0 faces found, 1 none or unreadable, 2 wrong usage.
"""

import argparse
import glob
import sys
from pathlib import Path

from PIL import Image
from tqdm import tqdm

import pipeline


def main():
    arguments = parse_arguments()
    faces = frames = 0
    try:
        arguments.output.mkdir(parents=True, exist_ok=True)
        if next(arguments.output.glob(f"{glob.escape(arguments.video.stem)}-*.png"), None):
            raise FileExistsError("holds faces of a video of this name: name another --output")
    except OSError as error:
        print(f"extract_faces.py: {arguments.output}: {pipeline.describe_error(error)}", file=sys.stderr)
        return 2
    try:
        sampled = pipeline.read_frames(arguments.video, arguments.frames)
        for index, frame in tqdm(sampled, total=arguments.frames, unit="frame", disable=None):
            frames += 1
            landmarks = pipeline.find_landmarks(frame)
            if landmarks is not None:
                face = Image.fromarray(pipeline.align_face(frame, pipeline.measure_pose(landmarks)))
                pipeline.write_whole(arguments.output / f"{arguments.video.stem}-{index:06}.png", face.save)
                faces += 1
    except (OSError, ValueError, ImportError) as error:
        print(f"extract_faces.py: {arguments.video}: {pipeline.describe_error(error)}", file=sys.stderr)
        return 1
    print(f"{arguments.video}: {faces} faces in {frames} frames, {frames - faces} without a face")
    return 0 if faces else 1


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("video", nargs="?", type=Path, default="video.mp4", help="default: %(default)s")
    parser.add_argument(
        "--output", type=Path, default="output", metavar="FOLDER", help="default: %(default)s/"
    )
    parser.add_argument(
        "--frames", type=int, default=30, metavar="N", help="frames to sample (default: %(default)s)"
    )
    arguments = parser.parse_args()
    if arguments.frames < 1:
        parser.error(f"--frames {arguments.frames}: wanted 1 or more")
    if not arguments.video.is_file():
        parser.error(f"{arguments.video}: no such file")
    return arguments


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
