"""Draw README's pictures anew, in tests/figures/: what the scripts make of a public-domain portrait.

    python3 tests/make_figures.py

The clip, 3 seconds, shows Grace Hopper's portrait moving; from 1 to 2 s the face is a simulated forgery, as
in test_images; some frames are blurred, two show Eileen Collins. Chromium (Debian: apt-get install chromium)
takes the picture of the report.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from clips import film, find_landmarks, forge_face, open_portrait, write_clip
from PIL import Image, ImageFilter

import pipeline

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "tests/figures"
FRAMES = 75


def main():
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        clip = write_clip(folder / "portrait.mp4", draw_frames(), options={"crf": "12"})
        for label in pipeline.LABELS:
            shutil.copytree(ROOT / "test_images" / label, folder / label)
        run("extract_faces.py", clip, "--output", folder / "faces", "--frames", "20")
        run("deepfakes_images.py", clip, "--every", "3", "--plot", folder / "timeline.png")
        run("deepfakes_images.py", ROOT / "test_images", "--explain", folder / "maps")
        report = ("--report", "report.html", "--frames", "45")
        run("deepfakes_images.py", "portrait.mp4", "real", "df", *report, cwd=folder)
        photograph(folder / "report.html", folder / "report.png")
        keep(folder / "faces/contact_sheet.png")
        keep(folder / "timeline.png")
        keep(folder / "report.png")
        keep(folder / "maps/df/collins.png", "evidence.png")


def photograph(page, picture):
    browser = shutil.which("chromium") or "google-chrome"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=860,3900"]
    subprocess.run([browser, *options, f"--screenshot={picture}", page.as_uri()], check=True)
    whole = Image.open(picture)
    whole.crop((0, 0, whole.width, 1750)).save(picture)


def keep(picture, name=None):
    """Put a picture among the README's, with colours enough for it to look the same."""
    colors = Image.open(picture).convert("RGB").quantize(200)
    colors.save(FIGURES / (name or picture.name), optimize=True)


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


def run(script, *arguments, cwd=None):
    subprocess.run([sys.executable, ROOT / script, *arguments], check=True, cwd=cwd)


if __name__ == "__main__":
    main()
