"""Train Meso4 or MesoInception4 on the faces in data/training|validation/<df,real>.

Without arguments: the paper's recipe. The output folder gets NAME.weights.h5 (to train on),
NAME.tflite (to score with) and NAME.json (the card) of the best epoch, by the validation AUC averaged
over data sets, with the threshold and bounds that the validation faces give; history.csv, curves.png;
recipe.json and a checkpoint for --resume.

Exit status: 0 trained, 1 stopped (loss not finite, disk full), 2 wrong usage or unfit data, 130 Ctrl-C.
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tqdm import tqdm

import pipeline
from pipeline import fail, read_count
from training import calibration, data, recipe
from weights import SMALLEST_ZOOM, silence_native_stderr, write_weights

PAPER = recipe.Recipe()
# read from the text: importing it starts TensorFlow
NETWORKS = re.findall(r"(?m)^class (\w+)\(Classifier\)", (ROOT / "classifiers.py").read_text("utf-8"))


def main(argv: Sequence[str] | None = None) -> int:
    arguments = make_parser().parse_args(argv)
    command = ["training/df_CNN.py", *(sys.argv[1:] if argv is None else argv)]
    try:
        train(arguments, command)
    except KeyboardInterrupt:
        return fail(130, "stopped; --resume goes on after the last epoch")
    except (FileNotFoundError, FileExistsError, NotADirectoryError, PermissionError, ValueError) as error:
        return fail(2, " ".join(str(error).split()))
    except (MemoryError, ArithmeticError) as error:  # `pipeline.run` reports a full disk
        reason = pipeline.describe_error(error)
        return fail(1, f"{reason} (the best weights so far, if any, are in {arguments.output})")
    return 0


def read_number(least: float, most: float, kind: type = float) -> Callable[[str], float]:
    """Return a reader of numbers given on the command line, from `least` to `most`, for argparse."""

    def number(text: str) -> float:
        if not least <= (found := kind(text)) <= most:
            raise argparse.ArgumentTypeError(f"must be from {least} to {most}, not {text}")
        return found

    return number


def read_shares(text: str) -> dict[str, float]:
    """Return {data set: share} from `dfdc=0.5,ffpp=2`."""
    words = (word.rpartition("=") for word in text.split(","))
    return {name: read_number(0, 1e6)(share) for name, _, share in words}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser; arguments that make up the Recipe are there only where they were given."""
    parser = pipeline.make_parser(__doc__, "python3 training/df_CNN.py --pairs --degrade 0.3")
    parser.argument_default = argparse.SUPPRESS
    # fmt: off
    add = parser.add_argument_group("data").add_argument
    add("--data", metavar="FOLDER", help="holds training/ and validation/, each with df/ and real/ (default: data)")
    add("--split-by-video", type=read_number(0, 0.9), metavar="SHARE", help="hold out this share of training's videos for validation, in place of validation/")
    add("--resample", choices=pipeline.RESAMPLING, help="filter that brings faces to 256x256 (default: nearest, or that of --weights)")
    add("--zoom", type=read_number(SMALLEST_ZOOM, pipeline.CROP_ZOOM), metavar="X", help=f"width of the square to look at, in widths of the face; only in crops by extract_faces.py, which are {pipeline.CROP_ZOOM} wide (default: {pipeline.CROP_ZOOM}, or as --weights)")
    add("--balance", nargs="?", type=read_shares, const={}, metavar="SET=X,...", help="draw data sets evenly, in a set its classes, in a class its kinds of forgery, in a kind its videos; with relative sampling weights of data sets, e.g. dfdc=0.25,ffpp=2")
    add("--pairs", action="store_true", help="as --balance; with each forged face df/<set>/<kind>_<video>... comes the same frame of its original real/<set>/<video>, changed alike")
    add("--degrade", type=read_number(0, 10), metavar="STRENGTH", help="compress as videos and JPEG do, scale, blur and crop at random; 1 is too strong for networks so small (default: 0, none)")
    add = parser.add_argument_group("network").add_argument
    add("--model", choices=NETWORKS, help=f"network to train (default: {PAPER.model})")
    add("--weights", metavar="FILE", help="start from these, ours or the authors'")
    add = parser.add_argument_group("recipe").add_argument
    add("--steps", type=read_count, metavar="N", help=f"batches to train on (default: {PAPER.steps})")
    add("--batch-size", type=read_count, metavar="N", help=f"images (default: {PAPER.batch_size})")
    add("--learning-rate", type=read_number(0, 1e38), metavar="RATE", help=f"of Adam, at the start (default: {PAPER.learning_rate})")
    add("--schedule", choices=("paper", "cosine"), help=f"paper: a tenth every 1000 steps, down to 1e-6; cosine: to 0 (default: {PAPER.schedule})")
    add("--loss", choices=("mse", "bce"), help=f"mean squared error or binary cross-entropy (default: {PAPER.loss})")
    add("--dropout", type=read_number(0, 0.99), metavar="SHARE", help=f"share of features dropped before each dense layer (default: {PAPER.dropout}, the networks'; 0.1 learns faster)")
    add("--average", type=read_number(0, 0.99999), metavar="DECAY", help="validate and save a moving average of the weights with this decay, e.g. 0.999 (default: 0, the weights themselves)")
    add("--seed", type=read_number(0, 2**32 - 1, int), metavar="N", help=f"of all that is random (default: {PAPER.seed})")
    add = parser.add_argument_group("output").add_argument
    add("--output", type=Path, default=Path("trained"), metavar="FOLDER", help="default: trained")
    add("--name", help="of the weights files (default: the model's)")
    add("--resume", action="store_true", default=False, help="go on with the training in --output, by its own recipe; give --data if the faces have moved")
    # fmt: on
    return parser


def train(arguments: argparse.Namespace, command: Sequence[str]) -> None:
    """Train, or resume a training; the docstring above lists what is written."""
    output, plan = arguments.output, recipe.make_recipe(arguments, command)
    items = data.find_parts(Path(plan.data), plan.split_by_video)
    data.weigh_faces(items[0], plan.balance or {})  # raises ValueError before a long wait
    output.mkdir(parents=True, exist_ok=True)
    training, validation = (data.load_faces(part, plan.view, output) for part in items)
    for remark in (*training.remarks, *validation.remarks, *data.find_leaks(*items)):
        print(f"df_CNN.py: warning: {remark}", file=sys.stderr)
    plan = recipe.complete_recipe(plan, training.items, output)
    with silence_native_stderr():
        from training import trainer
    from tensorflow.errors import OpError

    stem, card = output / plan.name, recipe.make_card(plan, training.items, validation.items)
    for part in ("trained_on", "validated_on"):
        counts = (f"{name} {n['images']} ({n['videos']} videos)" for name, n in card[part].items())
        print(f"{part.replace('_', ' ')} {', '.join(counts)}", flush=True)

    try:
        run = trainer.Trainer(plan, output / trainer.CHECKPOINT)
        if arguments.resume:
            print(f"resumed after epoch {len(run.history)}")
        for line in trainer.train(run, training, validation, stem, card):
            tqdm.write(line)  # above the bar
        trainer.draw_curves(run.history, output / "curves.png")
        run.scorer.load(f"{stem}.weights.h5")
        card["best_epoch"] = max(run.history, key=lambda row: row["validation_auc"])["epoch"]
        card, report = calibration.calibrate_card(card, run.scorer, validation)
        write_weights(run.scorer, stem, card)
    except OpError as error:  # memory is full
        raise MemoryError(str(error).partition("\n")[0]) from error
    print(f"{report}\nwrote {stem}.tflite, .weights.h5 and .json, history.csv and curves.png")


if __name__ == "__main__":
    pipeline.run(main)
