"""Time both scripts on clips, start to end, beside those of another copy of the project.

    python3 tests/benchmarks/bench_extraction.py [CLIP ...] [--before FOLDER]

Prints seconds and the number of faces found, "before -> now" and their ratio if another copy is given: its
scripts run in turn with these. Without clips: on a filmed portrait.
"""

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from bench_scoring import time_script
from clips import film_portrait

import pipeline


def main():
    parser = pipeline.make_parser(__doc__)
    parser.add_argument("clips", nargs="*", type=Path, metavar="CLIP")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="another copy of the project")
    arguments = parser.parse_args()
    roots = [root.resolve() for root in (arguments.before, ROOT) if root]
    print("  extract_faces.py  ratio  deepfakes_images.py  ratio         faces  clip")
    with tempfile.TemporaryDirectory() as folder:
        for clip in arguments.clips or [film_portrait(Path(folder, "portrait.mp4"))]:
            timed = [time_scripts(root, clip.resolve()) for root in roots]
            cells = []
            for times in list(zip(*timed, strict=True))[:2]:
                cells += [" -> ".join(f"{seconds:.2f}" for seconds in times), f"{times[-1] / times[0]:.2f}"]
            faces = " -> ".join(str(found) for *_, found in timed)
            print("{:>18} {:>6} {:>20} {:>6}".format(*cells), f"{faces:>13}  {clip.name}", flush=True)


def time_scripts(root, clip):
    """Return (seconds of extract_faces.py, of deepfakes_images.py, faces extracted)."""
    with tempfile.TemporaryDirectory() as folder:
        extracted, _ = time_script(root / "extract_faces.py", clip, "--output", folder)
        scored, _ = time_script(root / "deepfakes_images.py", clip)
        return extracted, scored, sum(1 for _ in Path(folder).rglob("*-[0-9]*.png"))


if __name__ == "__main__":
    main()
