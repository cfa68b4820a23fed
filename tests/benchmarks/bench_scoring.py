"""What videos cost by their number and by their length, with the start of Python and of the face detector.

    python3 tests/benchmarks/bench_scoring.py [MINUTES ...]

Scores forty clips of a second, one job against two. Then repeats a clip, without encoding it again, to
videos of these lengths (default: 1, 10 and 60 minutes), and prints the seconds and the peak megabytes of both
scripts: they must grow with the frames looked at, not with the length.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from clips import ROOT, film_portrait

CLIPS = 40


def main():
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "clips").mkdir()
        for number in range(CLIPS):
            film_portrait(folder / f"clips/{number}.mp4", 30)
        used = os.times().children_user
        one, _ = time_script("deepfakes_images.py", folder / "clips")
        used = os.times().children_user - used
        two, _ = time_script("deepfakes_images.py", folder / "clips", "--jobs", "2")
        print(f"{CLIPS} clips: one job {one:.1f} s, two jobs {two:.1f} s, ratio {one / two:.2f}")
        print(
            f"one job keeps {used / one:.2f} cores busy: two are at most {2 * one / used:.2f} times as fast"
        )
        print("minutes   extract_faces   deepfakes_images", flush=True)
        source = film_portrait(folder / "portrait.mp4")
        for minutes in map(float, sys.argv[1:] or (1, 10, 60)):
            video = repeat(source, folder / "long.mkv", minutes)
            extracted = time_script("extract_faces.py", video, "--output", folder / f"faces{minutes:g}")
            scored = time_script("deepfakes_images.py", video)
            cells = ["{:5.2f} s {:4.0f} MB".format(*cell) for cell in (extracted, scored)]
            print(f"{minutes:>7g}   {'   '.join(cells)}", flush=True)


def time_script(*command):
    """Run a script in a Python of its own. Returns (seconds, peak megabytes)."""
    begin, peak = time.perf_counter(), 0.0
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT, **quiet)
    while process.poll() is None:
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text("utf-8"))
        peak = int(found[1]) / 1000 if found else peak
        time.sleep(0.005)
    return time.perf_counter() - begin, peak


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
