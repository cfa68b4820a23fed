"""Time extract_faces.py, start to end, beside the least that its work could cost: on each clip given,

decode    decoding the frames sampled, once
search    face_recognition's detector on these frames at their own size
tool      extract_faces.py --frames N, with the start of Python and the loading of the models
ratio     tool / (decode + search)
score     deepfakes_images.py --frames N on the same clip, start to end
faces     frames with a face by the tool / by that search / by face_recognition's default, at twice the size

Without clips: on a filmed portrait. With --before FOLDER, another copy of the project, the commands of that
copy are timed in turn with these, and "tool" and "score" become "before -> now".
"""

import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import clips

import pipeline


def main():
    parser = pipeline.make_parser(__doc__, "python3 tests/benchmarks/bench_extraction.py clip.mp4")
    parser.add_argument("videos", nargs="*", type=Path, metavar="VIDEO")
    parser.add_argument("--frames", type=int, default=30, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="another copy of the project")
    arguments = parser.parse_args()
    pipeline.detect_faces(clips.open_portrait()[:64, :64])  # loads the models
    print("decode s  search s        tool s  ratio        score s  faces     clip")
    with tempfile.TemporaryDirectory() as folder:
        for video in arguments.videos or [clips.film_portrait(Path(folder, "portrait.mp4"))]:
            begin = time.perf_counter()
            frames = [frame.image for frame in pipeline.read_frames(video, arguments.frames)]
            decode = time.perf_counter() - begin
            begin = time.perf_counter()
            searched = sum(bool(pipeline.detect_faces(frame)) for frame in frames)
            search = time.perf_counter() - begin
            roots = [root.resolve() for root in (arguments.before, ROOT) if root]
            timed = [time_both(root, video, arguments.frames) for root in roots]
            tool, _, found = timed[-1]
            tools, scores = (" -> ".join(f"{one[i]:.2f}" for one in timed) for i in (0, 1))
            default = sum(bool(pipeline.detect_faces(frame, upsample=1)) for frame in frames)
            times = f"{decode:8.2f} {search:9.2f} {tools:>13} {tool / (decode + search):6.2f} {scores:>14}"
            print(f"{times}  {f'{found}/{searched}/{default}':<8}  {video.name}", flush=True)


def time_both(root, video, frames):
    """Return (seconds of extract_faces.py, of deepfakes_images.py, faces), as a user runs them."""
    with tempfile.TemporaryDirectory() as folder:
        options = (video.resolve(), "--frames", frames)
        tool, _ = clips.time_python(root / "extract_faces.py", *options, "--output", folder)
        score, _ = clips.time_python(root / "deepfakes_images.py", *options)
        table = Path(folder, "faces.csv")
        return tool, score, len(table.read_text(encoding="utf-8").splitlines()) - 1 if table.exists() else 0


if __name__ == "__main__":
    main()
