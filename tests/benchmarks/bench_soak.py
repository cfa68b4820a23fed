"""A soak: a thousand clips and ten thousand images, two jobs, kills at random, and what that costs.

    python3 tests/benchmarks/bench_soak.py [CLIPS] [IMAGES]

Extracts the faces of generated clips, scores the clips, and scores generated images; a twentieth of the
files is damaged. Each of the three runs is killed four times at random, main process only, and resumed.
Prints, and checks by assertion, that every input is accounted for exactly once, and that no process,
open file or half output is left. Of the last, undisturbed stretch: how much memory the processes take,
and the slope of that over the inputs.
"""

import csv
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import clips
import numpy as np
from PIL import Image

import pipeline

KILLS = 4
DAMAGED = 20  # every so manieth
GRACE = 20  # seconds until the processes of a killed run are gone


def main():
    clip_count, image_count = [*map(int, sys.argv[1:]), *(1000, 10_000)[len(sys.argv) - 1 :]]
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        damaged_clips = make_clips(folder / "clips", clip_count, random)
        damaged_images = make_images(folder / "images", image_count, random)
        print(
            "                    inputs  kills  killed after, s      seconds  most MB  MB per 1000 more",
            flush=True,
        )

        command = ["extract_faces.py", "clips", "--output", "faces", "--frames", "3", "--jobs", "2"]
        printed = soak("extraction", folder, command, clip_count, random)
        done = {path.parent.relative_to(folder / "faces") for path in folder.glob("faces/**/extraction.json")}
        wanted = {
            path.relative_to(folder / "clips").with_suffix("") for path in (folder / "clips").rglob("*.mp4")
        }
        assert done == wanted - damaged_clips
        told = re.findall(r"^clips/(\S+)\.mp4: ", printed, re.MULTILINE)
        assert len(told) == clip_count  # in the last run, once each
        assert {Path(name) for name in told} == wanted
        assert not list(folder.glob("faces/**/.writing-*"))

        for name, paths, damaged in (
            ("clips", clip_count, damaged_clips),
            ("images", image_count, damaged_images),
        ):
            command = [
                "deepfakes_images.py",
                name,
                "--csv",
                f"{name}.csv",
                "--resume",
                "--frames",
                "3",
                "--jobs",
                "2",
            ]
            soak(f"scoring {name}", folder, command, paths, random)
            with open(folder / f"{name}.csv", encoding="utf-8", newline="") as file:
                rows = [row for row in csv.DictReader(file) if row["kind"] != "face"]
            assert len({row["path"] for row in rows}) == len(rows) == paths
            refused = {Path(row["path"]).relative_to(name).with_suffix("") for row in rows if row["error"]}
            assert refused == damaged
            assert all(
                (row["score"] == "") == bool(row["error"]) for row in rows if row["verdict"] != "no face"
            )
        assert not list(folder.glob(".writing-*"))
    print("every input accounted for once; no process, open file or half output left")


def make_clips(folder, count, random):
    """Write clips of a face that moves; return the damaged ones' paths, without suffix."""
    portrait, damaged = clips.open_portrait(), set()
    for number in range(count):
        name = Path(f"{number % 10}/{number:04}")
        path = folder / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        x, y, size, angle = random.uniform((100, 90, 70, -20), (220, 150, 130, 20))
        poses = [pipeline.Pose(x + 2 * i, y, size, angle) for i in range(3)]
        clips.write_clip(path, [clips.film(portrait, pose, (320, 240)) for pose in poses])
        if number % DAMAGED == 7:
            path.write_bytes(path.read_bytes()[: random.integers(1, 300)])
            damaged.add(name)
    return damaged


def make_images(folder, count, random):
    """Write face crops of many sizes; return the damaged ones' paths, without suffix."""
    portraits, damaged = [clips.open_portrait(name) for name in ("biden", "collins", "obama")], set()
    for number in range(count):
        name = Path(f"{number % 100}/{number:05}")
        path = folder / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        side = int(random.integers(60, 300))
        Image.fromarray(portraits[number % 3]).resize((side, side)).save(
            path, quality=int(random.integers(40, 95))
        )
        if number % DAMAGED == 7:
            path.write_bytes(path.read_bytes()[: random.integers(1, 1000)])
            damaged.add(name)
    return damaged


def soak(title, folder, command, count, random):
    """Run a script to the end, killed on the way; print what it took, return what the last run printed."""
    times, started = [], time.monotonic()
    for _ in range(KILLS):
        seconds = float(random.uniform(2, 12))
        if run(folder, command, seconds)[0] is None:
            times.append(seconds)
    begun = time.monotonic()
    samples, printed = run(folder, command)
    sizes = np.array([size for _, size in samples])
    later = slice(len(sizes) // 4, None)  # until then, libraries are loaded
    rate = np.polyfit([at for at, _ in samples[later]], sizes[later], 1)[0] if len(sizes) > 8 else np.nan
    left = count * (time.monotonic() - begun) / (time.monotonic() - started)  # about as many were left to do
    slope = rate * (time.monotonic() - begun) / left * 1000
    shown = ", ".join(f"{seconds:.0f}" for seconds in times)
    print(
        f"{title:<18}  {count:>6}  {len(times):>5}  {shown:<20}  {time.monotonic() - started:>6.0f}"
        f"  {sizes.max():>7.0f}  {slope:>16.2f}",
        flush=True,
    )
    return printed


def run(folder, command, kill_after=None):
    """Run a script; return ([(second, MB of its processes)], its output), or (None, "") if killed."""
    command = [sys.executable, ROOT / command[0], *command[1:]]
    samples, started = [], time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        while process.poll() is None:
            members = list_session(process.pid)
            samples.append((time.monotonic() - started, sum(map(measure_memory, members)) / 1e6))
            if kill_after and time.monotonic() - started > kill_after:
                process.send_signal(signal.SIGKILL)  # the workers have to notice
            time.sleep(0.2)
        until = time.monotonic() + GRACE
        while (left := list_session(process.pid)) and time.monotonic() < until:
            time.sleep(0.2)
        assert not left, f"left running: {left}"
        if process.returncode == -signal.SIGKILL:
            return None, ""
        output.seek(0)
        printed = output.read()
        assert process.returncode == 1, printed[-1000:]  # some inputs are damaged
        assert "Traceback" not in printed
        return samples, printed


def list_session(leader):
    """Return the processes, other than zombies, of the session that a process leads."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                state, _, _, session = (
                    Path("/proc", entry, "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[:4]
                )
            except OSError:  # gone meanwhile
                continue
            if int(session) == leader and state != "Z":
                found.append(int(entry))
    return found


def measure_memory(process):
    """Return the bytes that a process has for itself, and its share of what it has in common."""
    try:
        return 1024 * int(
            re.search(r"Pss: +(\d+)", Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8"))[1]
        )
    except (OSError, TypeError):  # gone meanwhile
        return 0


if __name__ == "__main__":
    main()
