"""Time and memory by the length of a video: both must grow with the frames asked for, not with the length.

Repeats a video, without encoding it again, to videos of these lengths (default: a filmed portrait), and
prints for each the seconds and the peak megabytes of reading its packets, of sampling 30 frames, and of the
two scripts, start to end, each in a process of its own.
"""

import sys
import tempfile
from pathlib import Path

import av

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import clips

import pipeline

READ = "import sys; sys.path.insert(0, sys.argv[1]); import pipeline; "
TIMELINE = "pipeline.read_timeline(sys.argv[2])"
SAMPLE = "sum(1 for _ in pipeline.read_frames(sys.argv[2]))"


def main():
    parser = pipeline.make_parser(__doc__, "python3 tests/benchmarks/bench_long.py --minutes 1 10 60")
    parser.add_argument("video", nargs="?", type=Path, metavar="VIDEO")
    parser.add_argument("--minutes", nargs="+", type=float, default=[1, 10, 60])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        video = arguments.video or clips.film_portrait(Path(folder, "portrait.mp4"))
        print("minutes   packets         30 frames       extract_faces   deepfakes_images")
        for minutes in arguments.minutes:
            long = repeat(video, Path(folder, "long.mkv"), minutes)
            faces = Path(folder, f"faces{minutes:g}")
            commands = [["-c", READ + code, ROOT, long] for code in (TIMELINE, SAMPLE)]
            commands.append([ROOT / "extract_faces.py", long, "--output", faces])
            commands.append([ROOT / "deepfakes_images.py", long])
            cells = ["{:5.2f} s {:4.0f} MB".format(*clips.time_python(*command)) for command in commands]
            print(f"{minutes:>7g}   {'   '.join(cells)}", flush=True)


def repeat(video, path, minutes):
    """Write a video's packets again and again, until it is as long as asked."""
    with av.open(str(video)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.dts is not None]
        length = max(packet.pts + (packet.duration or 0) for packet in packets) - packets[0].dts
        times = [(packet.pts, packet.dts) for packet in packets]
        for number in range(max(1, round(minutes * 60 / float(length * stream.time_base)))):
            for packet, (pts, dts) in zip(packets, times, strict=True):
                packet.pts, packet.dts = pts + number * length, dts + number * length
                packet.time_base, packet.stream = stream.time_base, copy
                target.mux(packet)
    return path


if __name__ == "__main__":
    main()
