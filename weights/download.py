"""Download the weights of MesoNet's authors to weights/authors/, verify and convert them for LiteRT.

    python3 weights/download.py

Four Keras files (Apache-2.0, Darius Afchar and Vincent Nozick) from github.com/DariusAf/MesoNet.
"""

import functools
import hashlib
import http.client
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository's root

import pipeline
from weights import WEIGHTS_FOLDER, compute_sha256, silence_native_stderr, write_weights

ADDRESS = "https://raw.githubusercontent.com/DariusAf/MesoNet/master/weights"
SHA256 = {
    "Meso4_DF.h5": "036ed30d04ffd9c7506f825b97c86aa64915f5818931da96817b169aad790af5",
    "Meso4_F2F.h5": "bcfda015d217b9f8d6557693edbdf9f4e79cfd22672541968dd0e2954462b5d7",
    "MesoInception_DF.h5": "234586d40058e76ef8b6f27ca4b63c06e31c2a5a69c0d8ba6f30b1468ab7bafa",
    "MesoInception_F2F.h5": "d4533ac8a3197dc35c47405d23d99e888c1d0135e267e03540c7451feaccff3f",
}
PUBLISHED = {"resampling": "nearest", "threshold": 0.5}  # of a card


def main(argv: Sequence[str] | None = None) -> int:
    parser = pipeline.make_parser(__doc__)
    folder = WEIGHTS_FOLDER / "authors"
    parser.add_argument("--address", default=ADDRESS, metavar="URL", help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=folder, metavar="FOLDER", help="default: %(default)s")
    arguments = parser.parse_args(argv)
    failures = 0
    for name, digest in SHA256.items():
        target = arguments.output / name
        try:
            if not target.is_file() or compute_sha256(target) != digest:
                with urllib.request.urlopen(f"{arguments.address}/{name}", timeout=30) as response:
                    content = response.read(1_000_000)  # five times what the files have
                if (found := hashlib.sha256(content).hexdigest()) != digest:
                    raise ValueError(f"SHA-256 {found} must be {digest}: not kept")
                pipeline.write_atomically(target, functools.partial(Path.write_bytes, data=content))
            with silence_native_stderr():
                from classifiers import load_classifier
            write_weights(load_classifier(target), target.with_suffix(""), PUBLISHED)
            print(f"{target}: SHA-256 as expected, written for LiteRT too")
        except (OSError, ValueError, http.client.HTTPException) as error:
            print(f"download.py: {name}: {error} ({arguments.address})", file=sys.stderr)
            failures += 1
    return 1 if failures else 0


if __name__ == "__main__":
    pipeline.run(main)
