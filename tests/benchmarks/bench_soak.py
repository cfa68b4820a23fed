"""A soak: a thousand clips and ten thousand images, two jobs, kills at random, and what that costs.

    python3 tests/benchmarks/bench_soak.py [CLIPS] [IMAGES]

Extracts the faces of generated clips, scores the clips, and scores generated images; a twentieth of the
files is damaged. Each of the three runs is killed four times at random, main process only, and continued.
Checks that every input is accounted for exactly once, and that no process or half output is left; prints
the megabytes that the processes of the last run take after a quarter of its time, and at most.
"""

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
from conftest import read_rows
from PIL import Image

import pipeline

KILLS = 4
DAMAGED = 20  # one file in so many
GRACE = 20  # seconds until the processes of a killed run are gone


def main():
    numbers = [*map(int, sys.argv[1:]), *(1000, 10_000)[len(sys.argv) - 1 :]]
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        damaged = {"clips": make_files(folder, "clips", "mp4", numbers[0], random),
                   "images": make_files(folder, "images", "jpg", numbers[1], random)}  # fmt: skip
        print("                    killed after, s        seconds  MB at 1/4  MB at most", flush=True)
        options = ["--frames", "3", "--jobs", "2"]
        printed = soak(folder, ["extract_faces.py", "clips", "--output", "faces", *options], random)
        done = {path.parent.relative_to(folder / "faces") for path in folder.glob("faces/**/extraction.json")}
        wanted = {path.relative_to(folder / "clips").with_suffix("") for path in folder.glob("clips/*/*.mp4")}
        assert done == wanted - damaged["clips"]
        named = re.findall(r"^clips/(\S+)\.mp4: ", printed, re.MULTILINE)  # in the last run, once each
        assert (len(named), set(map(Path, named))) == (numbers[0], wanted)
        for name, number in zip(damaged, numbers, strict=True):
            soak(folder, ["deepfakes_images.py", name, "--output", f"scored-{name}", *options], random)
            rows = read_rows(folder / f"scored-{name}")
            assert len(rows) == number
            refused = {Path(path) for path, row in rows.items() if row["verdict"] == "error"}
            assert {path.relative_to(name).with_suffix("") for path in refused} == damaged[name]
        assert not list(folder.glob("**/.writing-*"))
    print("every input accounted for once; no process or half output left")


def make_files(folder, name, suffix, count, random):
    """Write clips of a face that moves, or face crops; return the damaged ones' paths, without suffix."""
    portraits, damaged = [clips.open_portrait(one) for one in ("hopper", "biden", "obama")], set()
    for number in range(count):
        stem = Path(f"{number % 10}/{number:05}")
        path = folder / name / f"{stem}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix == "mp4":
            x, y, size, angle = random.uniform((100, 90, 70, -20), (220, 150, 130, 20))
            poses = [pipeline.Pose(x + 2 * i, y, size, angle) for i in range(3)]
            clips.write_clip(path, [clips.film(portraits[0], pose, (320, 240)) for pose in poses])
        else:
            side, quality = map(int, random.integers((60, 40), (300, 95)))
            Image.fromarray(portraits[1 + number % 2]).resize((side, side)).save(path, quality=quality)
        if number % DAMAGED == 7:
            path.write_bytes(path.read_bytes()[: random.integers(1, 300)])
            damaged.add(stem)
    return damaged


def soak(folder, command, random):
    """Run a script to the end, killed on the way; print what it took, return what the last run printed."""
    started = time.monotonic()
    times = [seconds for seconds in random.uniform(2, 12, KILLS) if run(folder, command, seconds)[1] is None]
    samples, printed = run(folder, command)
    shown, sizes = (
        ", ".join(f"{seconds:.0f}" for seconds in times),
        (samples[len(samples) // 4], max(samples)),
    )
    cells = f"{time.monotonic() - started:>7.0f}  {sizes[0]:>9.0f}  {sizes[1]:>10.0f}"
    print(f"{command[0][:7]} {command[1]:<10}  {shown:<20}  {cells}", flush=True)
    return printed


def run(folder, command, kill_after=None):
    """Run a script; return ([MB of its processes, now and then], its output, None if it was killed)."""
    command = [sys.executable, ROOT / command[0], *command[1:]]
    samples, started = [], time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        streams = {"stdout": output, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, cwd=folder, start_new_session=True, **streams)
        while process.poll() is None:
            samples.append(sum(list_session(process.pid).values()) / 1e6)
            if kill_after and time.monotonic() - started > kill_after:
                process.send_signal(signal.SIGKILL)  # the workers have to notice
            time.sleep(0.2)
        until = time.monotonic() + GRACE
        while (left := list_session(process.pid)) and time.monotonic() < until:
            time.sleep(0.2)
        assert not left, f"left running: {left}"
        if process.returncode == -signal.SIGKILL:
            return samples, None
        output.seek(0)
        printed = output.read()
        assert process.returncode == 1, printed[-1000:]  # some inputs are damaged
        assert "Traceback" not in printed
        return samples, printed


def list_session(leader):
    """Return {process: its own bytes, and its share of common ones} of the session that a process leads."""
    found = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, _, _, session = (
                Path(f"/proc/{entry}/stat").read_text("utf-8").rpartition(")")[2].split()[:4]
            )
            if int(session) == leader and state != "Z":
                size = re.search(r"Pss: +(\d+)", Path(f"/proc/{entry}/smaps_rollup").read_text("utf-8"))
                found[int(entry)] = 1024 * int(size[1]) if size else 0
        except OSError:  # gone meanwhile
            continue
    return found


if __name__ == "__main__":
    main()
