"""Make test_images/ anew: aligned faces from public-domain portraits, and forgeries simulated on them.

    pip download --no-deps --no-binary :all: face_recognition==1.3.0
    pip download --no-deps scikit-image==0.26.0
    tar xzf face_recognition-1.3.0.tar.gz && unzip -q scikit_image-0.26.0-*.whl
    python3 tests/make_test_images.py --portraits .

test_images/README.md names the source of each portrait, and tells what the forgeries are.
"""

import functools
from pathlib import Path

from clips import ROOT, find_landmarks, forge_face, open_portrait

import pipeline

PORTRAITS = {  # name: path below the folder of unpacked packages, or "" where matplotlib has it
    "collins": "skimage/data/astronaut.png",
    "hopper": "",
    "obama": "face_recognition-1.3.0/tests/test_images/obama.jpg",
    "biden": "face_recognition-1.3.0/tests/test_images/biden.jpg",
}


def main():
    parser = pipeline.make_parser(__doc__)
    parser.add_argument("--portraits", type=Path, required=True, help="folder of the unpacked packages")
    parser.add_argument("--output", type=Path, default=ROOT / "test_images", help="default: %(default)s")
    arguments = parser.parse_args()
    for name, path in PORTRAITS.items():
        frame = pipeline.read_image(arguments.portraits / path) if path else open_portrait(name)
        face = pipeline.align_face(frame, pipeline.measure_pose(find_landmarks(frame)))
        forged = forge_face(face, find_landmarks(face))
        for label, image in (("real", face), ("df", forged)):
            target = arguments.output / label / f"{name}.png"
            pipeline.write_atomically(target, functools.partial(pipeline.write_crop, image))
            print(f"{target}: {image.shape[1]}x{image.shape[0]}")


if __name__ == "__main__":
    main()
