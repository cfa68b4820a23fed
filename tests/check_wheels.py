"""Check that every requirement has a wheel for each system and each Python. Needs the package registry.

    python3 tests/check_wheels.py

It resolves requirements.txt for each pair, wheels only, without installing anything. Two names are replaced:
./.dlib by the wheels that it depends on, and face_recognition, of which only the models come as plain source
(data and a line of Python, which pip builds anywhere), by its other dependencies.
"""

import itertools
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SYSTEMS = {
    "Windows x86-64": ["win_amd64"],
    "macOS arm64": [f"macosx_{version}_0_arm64" for version in (14, 13, 12, 11)],
    "Linux x86-64": [f"manylinux_2_{version}_x86_64" for version in (28, 27, 17)] + ["manylinux2014_x86_64"],
    "Linux arm64": [f"manylinux_2_{version}_aarch64" for version in (28, 27, 17)] + ["manylinux2014_aarch64"],
}
PYTHONS = ("3.11", "3.12", "3.13")
REPLACED = {"./.dlib": "dlib-bin", "face_recognition": "click"}


def main():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line.partition("#")[0].strip() for line in lines]
    wanted = [REPLACED.get(re.split(r"[<>=]", line)[0], line) for line in wanted if line]
    reasons = []
    for (system, platforms), python in itertools.product(SYSTEMS.items(), PYTHONS):
        reasons.append(resolve(wanted, platforms, python))
        print(f"{system:<15} Python {python}  {reasons[-1] or 'wheels for all'}", flush=True)
    return int(any(reasons))


def resolve(wanted, platforms, python):
    """Return why pip cannot install these, or ""."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--target", folder]
        command += ["--only-binary=:all:", f"--python-version={python}"]
        command += [f"--platform={platform}" for platform in platforms]
        done = subprocess.run([*command, *wanted], capture_output=True, text=True, check=False)
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return errors[0] if done.returncode else ""


if __name__ == "__main__":
    sys.exit(main())
