"""Make test_images/ anew: aligned faces from public-domain portraits, and forgeries simulated on them.

    pip download --no-deps --no-binary :all: face_recognition==1.3.0
    pip download --no-deps scikit-image==0.26.0
    tar xzf face_recognition-1.3.0.tar.gz && unzip -q scikit_image-0.26.0-*.whl
    python3 tests/make_test_images.py --portraits .

A forgery does what face-warping deepfakes do: the inner face is brought to 64x64 pixels, as the
generators of 2018 made it, warped back to its place, recoloured a little and blended in.
test_images/README.md names the source of each portrait.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import pipeline

PORTRAITS = {  # name: path below the folder of unpacked packages, or None where matplotlib has it
    "collins": "skimage/data/astronaut.png",
    "hopper": None,
    "obama": "face_recognition-1.3.0/tests/test_images/obama.jpg",
    "biden": "face_recognition-1.3.0/tests/test_images/biden.jpg",
}
GENERATED = 64  # pixels: side of the faces that the first deepfake autoencoders produced


def main():
    arguments = parse_arguments()
    from matplotlib import cbook

    hopper = cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    for name, path in PORTRAITS.items():
        frame = pipeline.read_image(arguments.portraits / path if path else hopper)
        face = pipeline.align_face(frame, pipeline.measure_pose(pipeline.find_landmarks(frame)))
        forged = forge_face(face, pipeline.find_landmarks(face))
        for label, image in (("real", face), ("df", forged)):
            target = arguments.output / label / f"{name}.png"
            pipeline.write_whole(target, Image.fromarray(image).save)
            print(f"{target}: {image.shape[1]}x{image.shape[0]}")


def forge_face(face, landmarks):
    """Return `face` with its inner part (brows to chin) re-synthesised at 64x64 and blended back."""
    points = np.array([p for name in ("chin", "left_eyebrow", "right_eyebrow") for p in landmarks[name]])
    centre = points.mean(axis=0)
    points = centre + 0.92 * (points - centre)
    (left, top), (right, bottom) = points.min(axis=0).astype(int), points.max(axis=0).astype(int)
    image = Image.fromarray(face)
    region = image.crop((left, top, right, bottom))
    small = region.resize((GENERATED, GENERATED), Image.Resampling.BILINEAR)
    small = small.filter(ImageFilter.GaussianBlur(0.8))  # an autoencoder's softness
    again = np.asarray(small.resize(region.size, Image.Resampling.BICUBIC), np.float32)
    again = np.clip(again * (1.04, 1.0, 0.97), 0, 255).astype(np.uint8)  # colours never match quite
    mask = Image.new("L", image.size)
    hull = points[np.argsort(np.arctan2(*(points - centre).T))]
    ImageDraw.Draw(mask).polygon([tuple(p) for p in hull], fill=255)
    mask = mask.filter(ImageFilter.GaussianBlur(0.02 * face.shape[0]))
    pasted = image.copy()
    pasted.paste(Image.fromarray(again), (int(left), int(top)))
    return np.asarray(Image.composite(pasted, image, mask))


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--portraits", type=Path, required=True, help="folder of the unpacked packages")
    parser.add_argument("--output", type=Path, default=ROOT / "test_images", help="default: %(default)s")
    return parser.parse_args()


if __name__ == "__main__":
    main()
