"""Measure README's figures anew, print them, and put them in their places.

    python3 tests/benchmarks/refresh_readme.py [FOLDER]

Each is what a command prints. FOLDER holds what some need and the project may not give: the face sets in
data/deepfake/validation and data/face2face/validation, and videos in videos/clips and videos/training/real;
without it theirs stay as they are. The authors' weights are to be in weights/authors. Takes half an hour.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import pipeline

# how a figure begins in README, and nothing else does; the command that prints it
FIGURES = {
    "score  verdict   image": "deepfakes_images.py",
    "Meso4_DF, 2 cores": "tests/benchmarks/bench_scoring.py",
    "Meso4, batches of 75": "tests/benchmarks/bench_training.py",
    "inputs  kills": "tests/benchmarks/bench_soak.py",
}
FIGURES_OF_FOLDER = {
    "decode s  search s": """tests/benchmarks/bench_extraction.py {0}/videos/clips/carphone_qcif.mp4
{0}/videos/clips/no_face_screencast.mp4 {0}/videos/clips/talking_head.mp4
{0}/videos/clips/walking_towards_camera.mp4 {0}/videos/training/real/ffpp_c23_055.mp4""",
    "| dataset, level | count | Meso4_DF": """tests/benchmarks/bench_weights.py {0}/data/deepfake/validation
Meso4_DF MesoInception_DF weights/authors/Meso4_DF.h5 weights/authors/MesoInception_DF.h5""",
    "| dataset, level | count | Meso4_F2F": """tests/benchmarks/bench_weights.py {0}/data/face2face/validation
Meso4_F2F MesoInception_F2F weights/authors/Meso4_F2F.h5 weights/authors/MesoInception_F2F.h5""",
}


def main():
    readme = ROOT / "README.md"
    commands = FIGURES
    if len(sys.argv) > 1:
        folder = shlex.quote(str(Path(sys.argv[1]).resolve()))
        commands = FIGURES | {key: c.format(folder) for key, c in FIGURES_OF_FOLDER.items()}
    for beginning in commands:
        replace_figure(readme.read_text(), beginning, "")  # each has its place, before hours go by
    for beginning, command in commands.items():
        print(f"python3 {' '.join(command.split())}", flush=True)
        done = subprocess.run(
            [sys.executable, *shlex.split(command)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
        )
        printed = done.stdout.rstrip("\n")
        print(printed, end="\n\n", flush=True)
        text = replace_figure(readme.read_text(), beginning, printed)
        pipeline.write_atomically(readme, lambda part, text=text: part.write_text(text))


def replace_figure(text, beginning, printed):
    """Return README's text with a figure replaced: a block or table, the only one to begin so."""
    end = r"(?=^$)" if beginning.startswith("|") else r"(?=^```$)"
    figure = re.compile(rf"^ *{re.escape(beginning)}.*?{end}", re.MULTILINE | re.DOTALL)
    text, count = figure.subn(lambda _: printed + "\n", text)
    if count != 1:
        raise ValueError(f"README.md: {count} figures begin with {beginning!r}, wanted 1")
    return text


if __name__ == "__main__":
    main()
