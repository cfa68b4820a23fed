"""Train Meso4 or MesoInception4 on the faces in data/training|validation/<df,real>.

Without arguments: the paper's recipe. The output folder gets NAME.weights.h5 (to train on),
NAME.tflite (to score with) and NAME.json (the card) of the best epoch, by the validation AUC averaged
over data sets, with the threshold and bounds that the validation faces give; history.csv, curves.png;
recipe.json and checkpoints for --resume.

Exit status: 0 trained, 1 stopped (loss not finite, disk full), 2 wrong usage or unfit data.
"""

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository's root

from tqdm import tqdm

import pipeline
from pipeline import fail, read_count
from training import data
from training.calibration import calibrate_card
from training.recipe import (
    Recipe,
    check_shares,
    complete_recipe,
    find_fault,
    list_networks,
    make_card,
    make_recipe,
    read_shares,
)  # fmt: skip
from weights import check_room, write_card, write_weights

if TYPE_CHECKING:
    from classifiers import Classifier

PAPER = Recipe()


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if reason := find_fault(arguments):
        parser.error(reason)
    arguments.command = ["training/df_CNN.py", *(sys.argv[1:] if argv is None else argv)]
    try:
        train(arguments)
    except KeyboardInterrupt:
        return fail(130, "stopped; --resume goes on after the last epoch")
    except BrokenPipeError:  # `pipeline.run` ends quietly
        raise
    except ArithmeticError as error:
        return fail(1, f"{error} (the best weights so far, if any, are in {arguments.output})")
    except (FileNotFoundError, FileExistsError, NotADirectoryError, PermissionError, ValueError) as error:
        return fail(2, " ".join(str(error).split()))
    except (OSError, MemoryError) as error:
        return fail(1, (str(error).strip() or type(error).__name__).splitlines()[0])
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the parser; arguments that make up the Recipe are there only where they were given."""
    parser = pipeline.make_parser(
        __doc__, "python3 training/df_CNN.py --pairs --degrade 0.3 --output trained2"
    )
    parser.argument_default = argparse.SUPPRESS
    # fmt: off
    add = parser.add_argument_group("data").add_argument
    add("--data", metavar="FOLDER", help="holds training/ and validation/, each with df/ and real/ (default: data)")
    add("--split-by-video", type=float, metavar="SHARE", help="without validation/: hold out this share of training's videos for validation")
    add("--resample", choices=pipeline.RESAMPLING, help="filter that brings faces to 256x256 (default: nearest, or that of --weights or --imitate)")
    add("--zoom", type=float, metavar="X", help=f"width of the square to look at, in widths of the face; only in crops by extract_faces.py, which are {pipeline.CROP_ZOOM} wide (default: {pipeline.CROP_ZOOM}, or as --weights or --imitate)")
    add("--balance", nargs="?", type=read_shares, const={}, metavar="SET=X,...", help="draw data sets evenly, in a set its classes, in a class its kinds of forgery, in a kind its videos; with relative sampling weights of data sets, e.g. dfdc=0.25,ffpp=2")
    add("--pairs", action="store_true", help="the same, and with a forged face df/<set>/<kind>_<video>... the same frame of its original real/<set>/<video>, changed alike")
    add("--degrade", type=float, metavar="STRENGTH", help="compress as videos and JPEG do, scale, blur, add noise and crop at random; 1 is too strong for networks so small (default: 0, none)")
    add = parser.add_argument_group("network").add_argument
    add("--model", choices=list_networks(), help=f"network to train (default: {PAPER.model})")
    add("--weights", metavar="FILE", help="start from these, ours or the authors'")
    add("--imitate", metavar="FILE", help="learn to give what the first three blocks of these weights give, and copy the rest: a quick way from one network to the other, before training it on labels")
    group = parser.add_argument_group("recipe")
    add = group.add_mutually_exclusive_group().add_argument
    add("--steps", type=read_count, metavar="N", help=f"batches to train on (default: {PAPER.steps})")
    add("--epochs", type=read_count, metavar="N", help="the same, in passes over the data")
    add = group.add_argument
    add("--batch-size", type=read_count, metavar="N", help=f"images (default: {PAPER.batch_size})")
    add("--learning-rate", type=float, metavar="RATE", help=f"of Adam, at the start (default: {PAPER.learning_rate})")
    add("--schedule", choices=("paper", "cosine"), help=f"paper: a tenth every 1000 steps, down to 1e-6; cosine: to 0 (default: {PAPER.schedule})")
    add("--loss", choices=("mse", "bce"), help=f"mean squared error or binary cross-entropy (default: {PAPER.loss})")
    add("--average", type=float, metavar="DECAY", help="validate and save a moving average of the weights with this decay, e.g. 0.999 (default: 0, the weights themselves)")
    add("--seed", type=int, metavar="N", help=f"of all that is random (default: {PAPER.seed})")
    add = parser.add_argument_group("output").add_argument
    add("--output", type=Path, default=Path("trained"), metavar="FOLDER", help="default: trained")
    add("--name", help="of the weights files (default: the model's)")
    add("--resume", action="store_true", default=False, help="go on with the training in --output, by its own recipe")
    # fmt: on
    return parser


def train(arguments: argparse.Namespace) -> None:
    """Train, or resume a training; the docstring above lists what is written."""
    output, recipe = arguments.output, make_recipe(arguments)
    items, remarks = data.find_parts(Path(recipe.data), recipe.split_by_video)
    check_shares(recipe, items[0])
    output.mkdir(parents=True, exist_ok=True)
    training, validation = (data.load_faces(part, recipe.view, output) for part in items)
    for remark in (*remarks, *training.remarks, *validation.remarks, *data.find_copies(training, validation)):
        print(f"df_CNN.py: warning: {remark}", file=sys.stderr)
    recipe = complete_recipe(recipe, arguments, training.items)
    with pipeline.silence_native_stderr():
        from training import figures, trainer
    from tensorflow.errors import OpError

    stem, card = output / recipe.name, make_card(recipe, training.items, validation.items)
    for part in ("trained_on", "validated_on"):
        counts = (f"{name} {n['images']} ({n['videos']} videos)" for name, n in card[part].items())
        print(f"{part.replace('_', ' ')} {', '.join(counts)}", flush=True)
    try:
        run, history = trainer.start(recipe, output)
        if arguments.resume:
            print(f"resumed after epoch {len(history)}")
        best = functools.partial(keep_best, stem, card)
        for line in trainer.train(run, training, validation, output, history, best):
            tqdm.write(line)  # above the bar
        figures.draw_curves(history, output / "curves.png")
        run.scorer.load(f"{stem}.weights.h5")
        card["best_epoch"] = max(history, key=lambda row: row["validation_auc"])["epoch"]
        card, report = calibrate_card(card, run.scorer, validation, recipe.view)
        write_weights(run.scorer, stem, card)
    except OpError as error:  # memory is full
        raise MemoryError(str(error)) from error
    print(report)
    print(f"wrote {stem}.tflite, .weights.h5 and .json, history.csv and curves.png")


def keep_best(stem: Path, card: dict[str, Any], scorer: "Classifier", epoch: int) -> None:
    """Write the weights of the best epoch so far, and their card; `write_weights` ends them."""
    check_room(stem.parent)
    weights = Path(f"{stem}.weights.h5")
    pipeline.write_atomically(weights, scorer.save)
    sha256 = {weights.name: pipeline.compute_sha256(weights)}
    write_card(Path(f"{stem}.json"), {**card, "best_epoch": epoch, "sha256": sha256})


if __name__ == "__main__":
    pipeline.run(main)
