"""A soak: a thousand clips and ten thousand images, two jobs, kills at random.

    python3 tests/benchmarks/bench_soak.py [CLIPS] [IMAGES]

Extracts the faces of clips, scores the clips, and scores images; a twentieth of the files is damaged. Each of
the three runs is killed four times at random, main process only, and continued. Checks that every input is
accounted for exactly once and that no process is left; prints seconds, most megabytes, and how many hidden
folders the killed runs left half written.
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from clips import ROOT, film_portrait
from conftest import read_rows

KILLS = 4
DAMAGED = 20  # one file in so many
GRACE = 20  # seconds until the processes of a killed run are gone


def main():
    numbers = [*map(int, sys.argv[1:]), *(1000, 10_000)[len(sys.argv) - 1 :]]
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sources = (film_portrait(folder / "portrait.mp4"), ROOT / "test_images/df/obama.png")
        kinds = list(zip(("clips", "images"), sources, numbers, strict=True))
        damaged = {name: copy_file(source, folder / name, number, random) for name, source, number in kinds}
        printed = soak(folder, "extract_faces.py", "clips", "faces", random)
        done = {"/".join(path.parts[-3:-1]) for path in folder.glob("faces/*/*/extraction.json")}
        named = re.findall(r"^clips/(\S+)\.mp4: ", printed, re.MULTILINE)  # in the last run, once each
        assert len(named) == len(set(named)) == numbers[0]
        assert done == set(named) - damaged["clips"]
        for name, number in zip(damaged, numbers, strict=True):
            soak(folder, "deepfakes_images.py", name, f"scored-{name}", random)
            rows = read_rows(folder / f"scored-{name}")
            assert len(rows) == number
            refused = {path for path, row in rows.items() if row["verdict"] == "error"}
            assert {str(Path(path).relative_to(name).with_suffix("")) for path in refused} == damaged[name]
        print(f"left by killed runs: {len(list(folder.glob('**/.writing-*')))} hidden folders")


def copy_file(source, folder, count, random):
    """Copy a file `count` times, a twentieth cut short; return the names of these, without suffix."""
    whole, damaged = source.read_bytes(), set()
    for number in range(count):
        path = folder / f"{number % 10}/{number:05}{source.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(whole)
        if number % DAMAGED == 7:
            path.write_bytes(whole[: random.integers(1, 300)])
            damaged.add(f"{number % 10}/{number:05}")
    return damaged


def soak(folder, script, source, output, random):
    """Run a script to the end, killed on the way; return what the last run printed."""
    command = [sys.executable, ROOT / script, source, "--output", output, "--frames", "3", "--jobs", "2"]
    started, largest = time.monotonic(), 0
    for kill_after in (*random.uniform(2, 12, KILLS), np.inf):
        with tempfile.TemporaryFile("w+", encoding="utf-8") as printed:
            streams = {"stdout": printed, "stderr": subprocess.STDOUT}
            process = subprocess.Popen(command, cwd=folder, start_new_session=True, **streams)
            begun = time.monotonic()
            while process.poll() is None:
                largest = max(largest, measure_session(process.pid))
                if time.monotonic() - begun > kill_after:
                    process.kill()  # the workers have to notice
                time.sleep(0.2)
            begun = time.monotonic()
            while measure_session(process.pid):
                assert time.monotonic() - begun < GRACE, "processes of a killed run are left"
                time.sleep(0.2)
            printed.seek(0)
            text = printed.read()
    assert process.returncode == 1, text[-1000:]  # some inputs are damaged
    assert "Traceback" not in text
    print(f"{script} {source}: {time.monotonic() - started:.0f} s, {largest / 1000:.0f} MB", flush=True)
    return text


def measure_session(leader):
    """Return the kilobytes of a leader's session: of each process its own, and its share of common ones."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text("utf-8").rpartition(")")[2].split()
            if int(status[3]) == leader and status[0] != "Z":
                total += int(re.search(r"Pss: +(\d+)", (folder / "smaps_rollup").read_text("utf-8"))[1])
        except (OSError, TypeError):  # gone meanwhile
            continue
    return total


if __name__ == "__main__":
    main()
