"""Draw README's pictures anew, in tests/figures/: what the scripts make of a public-domain portrait.

    python3 tests/make_figures.py

The clip, 3 seconds, shows Grace Hopper's portrait moving; from 1 to 2 s the face is a simulated forgery, as
in test_images; some frames are blurred, two show Eileen Collins. Chromium (Debian: apt-get install chromium)
takes the picture of the report.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from clips import ROOT, film, find_landmarks, forge_face, open_portrait, write_clip
from conftest import run_script
from PIL import Image, ImageFilter

import pipeline
from weights import DEFAULT, find_weights
from weights.scoring import score
from weights.scoring.figures import draw_timeline

FIGURES = ROOT / "tests/figures"
FRAMES = 75
SHOWN = (4, 37, 62)  # of the annotated copy, above the timeline


def main():
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        clip = write_clip(folder / "portrait.mp4", draw_frames(), options={"crf": "12"})
        for label in pipeline.LABELS:
            shutil.copytree(ROOT / "test_images" / label, folder / label)
        command = "extract_faces.py portrait.mp4 --output faces --frames 20"
        run_script(*command.split(), cwd=folder)
        keep(Image.open(folder / "faces/contact_sheet.png"), "contact_sheet.png")
        command = "deepfakes_images.py portrait.mp4 real df --output results --annotate"
        run_script(*command.split(), cwd=folder)
        keep(photograph(folder / "results/report.html", folder / "report.png"), "report.png")
        frames = pipeline.read_frames(folder / "results/annotated/portrait.mp4", None)
        shown = [frame.image for frame in frames if frame.index in SHOWN]
        keep(draw_demonstration(shown, clip, folder / "timeline.png"), "demo.png")


def draw_demonstration(frames, clip, scratch):
    """Return frames of an annotated copy, side by side, above the scores over time."""
    (result,) = score([clip])
    figure = draw_timeline(result, find_weights(DEFAULT).rule)
    figure.set_size_inches(9.6, 3)
    figure.savefig(scratch, dpi=100)
    upper = Image.fromarray(np.concatenate(frames, axis=1))
    upper = upper.resize((960, 960 * upper.height // upper.width), Image.Resampling.LANCZOS)
    timeline = Image.open(scratch).convert("RGB")
    whole = Image.new("RGB", (960, upper.height + timeline.height), "white")
    whole.paste(upper, (0, 0))
    whole.paste(timeline, (0, upper.height))
    return whole


def photograph(page, picture):
    """Return the first screen of a page as Chromium shows it."""
    browser = shutil.which("chromium") or "google-chrome"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=860,1250"]
    subprocess.run([browser, *options, f"--screenshot={picture}", page.as_uri()], check=True)
    return Image.open(picture)


def keep(picture, name):
    """Put a picture among the README's, with colours enough for it to look the same."""
    picture.convert("RGB").quantize(200).save(FIGURES / name, optimize=True)


def draw_frames():
    portrait, other = open_portrait(), open_portrait("collins")
    forged = forge_face(portrait, find_landmarks(portrait))
    for i in range(FRAMES):
        swing = np.sin(2 * np.pi * i / FRAMES)
        pose = pipeline.Pose(320 + 60 * swing, 240 + 20 * swing, 190, 12 * swing)
        frame = film(forged if 25 <= i < 50 else other if i >= 72 else portrait, pose)
        if 10 <= i < 16:
            frame = np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(5)))
        yield frame


if __name__ == "__main__":
    main()
