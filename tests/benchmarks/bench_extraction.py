"""Time extract_faces.py, start to end, beside the least that its work could cost: on each clip given,

decode    decoding the frames sampled, once
search    face_recognition's detector on these frames at their own size
tool      extract_faces.py --frames N, with the start of Python and the loading of the models
ratio     tool / (decode + search)
score     deepfakes_images.py --frames N on the same clip, start to end
faces     frames with a face by the tool / by that search / by face_recognition's default, at twice the size

With --before FOLDER, another copy of the project, the same two commands of that copy are timed in turn with
these, and "tool" and "score" become "before -> now".
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import pipeline


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", nargs="*", type=Path, default=[Path("video.mp4")], metavar="VIDEO")
    parser.add_argument("--frames", type=int, default=30, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="another copy of the project")
    arguments = parser.parse_args()
    pipeline.detect_faces(next(pipeline.read_frames(arguments.videos[0], 1)).image[:64, :64])  # loads models
    print("decode s  search s        tool s  ratio        score s  faces     clip")
    for video in arguments.videos:
        begin = time.perf_counter()
        frames = [frame.image for frame in pipeline.read_frames(video, arguments.frames)]
        decode = time.perf_counter() - begin
        begin = time.perf_counter()
        searched = sum(bool(pipeline.detect_faces(frame)) for frame in frames)
        search = time.perf_counter() - begin
        before = [time_both(arguments.before, video, arguments.frames)] if arguments.before else []
        tool, score, found = time_both(ROOT, video, arguments.frames)
        tools, scores = (" -> ".join(f"{one[i]:.2f}" for one in (*before, (tool, score))) for i in (0, 1))
        default = sum(bool(pipeline.detect_faces(frame, upsample=1)) for frame in frames)
        print(
            f"{decode:8.2f} {search:9.2f} {tools:>13} {tool / (decode + search):6.2f} {scores:>14}  "
            f"{f'{found}/{searched}/{default}':<8}  {video.name} ({frames[0].shape[1]}x{frames[0].shape[0]})",
            flush=True,
        )


def time_both(root, video, frames):
    """Return (seconds of extract_faces.py, of deepfakes_images.py, faces), as a user runs them."""
    with tempfile.TemporaryDirectory() as folder:
        extract = ["extract_faces.py", video, "--output", Path(folder, "faces")]
        seconds = [
            time_script(root, *command, "--frames", str(frames))
            for command in (extract, ["deepfakes_images.py", video])
        ]
        table = Path(folder, "faces/faces.csv")
        faces = len(table.read_text(encoding="utf-8").splitlines()) - 1 if table.exists() else 0
        return *seconds, faces


def time_script(root, script, *arguments):
    begin = time.perf_counter()
    subprocess.run([sys.executable, root / script, *arguments], capture_output=True, check=False)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
