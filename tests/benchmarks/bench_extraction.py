"""Time extract_faces.py, start to end, beside the least that its work could cost: on each clip given,

decode    decoding the frames sampled, once
search    face_recognition's detector on these frames at their own size
tool      extract_faces.py --frames N, with the start of Python and the loading of the models
ratio     tool / (decode + search)
score     deepfakes_images.py --frames N on the same clip, start to end
faces     frames with a face by the tool / by that search / by face_recognition's default, at twice the size
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
    arguments = parser.parse_args()
    pipeline.detect_faces(next(pipeline.read_frames(arguments.videos[0], 1)).image[:64, :64])  # loads models
    print("decode s  search s  tool s  ratio  score s  faces     clip")
    for video in arguments.videos:
        begin = time.perf_counter()
        frames = [frame.image for frame in pipeline.read_frames(video, arguments.frames)]
        decode = time.perf_counter() - begin
        begin = time.perf_counter()
        searched = sum(bool(pipeline.detect_faces(frame)) for frame in frames)
        search = time.perf_counter() - begin
        tool, found = time_tool(video, arguments.frames)
        score = time_scoring(video, arguments.frames)
        default = sum(bool(pipeline.detect_faces(frame, upsample=1)) for frame in frames)
        print(
            f"{decode:8.2f} {search:9.2f} {tool:7.2f} {tool / (decode + search):6.2f} {score:8.2f}  "
            f"{f'{found}/{searched}/{default}':<8}  {video.name} ({frames[0].shape[1]}x{frames[0].shape[0]})",
            flush=True,
        )


def time_tool(video, frames):
    """Return (seconds, faces) of extract_faces.py as a user runs it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, ROOT / "extract_faces.py", video, "--frames", str(frames)]
        begin = time.perf_counter()
        subprocess.run([*command, "--output", Path(folder, "faces")], capture_output=True, check=False)
        seconds = time.perf_counter() - begin
        return seconds, len(Path(folder, "faces/faces.csv").read_text(encoding="utf-8").splitlines()) - 1


def time_scoring(video, frames):
    begin = time.perf_counter()
    command = [sys.executable, ROOT / "deepfakes_images.py", video, "--frames", str(frames)]
    subprocess.run(command, capture_output=True, check=False)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
