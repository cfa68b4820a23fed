"""Train Meso4 or MesoInception4 on the faces in data/training|validation/<df,real>.

Without arguments: the paper's recipe. The output folder gets NAME.weights.h5 (to train on),
NAME.tflite (to score with) and NAME.json (the card) of the best epoch, by the validation AUC
averaged over datasets; history.csv, curves.png, evaluation.png; recipe.json and checkpoints for --resume.

Exit status: 0 trained, 1 stopped (loss not finite, disk full), 2 wrong usage or unfit data.
"""

import argparse
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository's root

import pipeline
from pipeline import fail, read_amount, read_count, read_number
from training import evaluation, run
from training.recipe import Recipe, format_command, read_shares

PAPER = Recipe()


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    command = format_command(sys.argv[1:] if argv is None else argv)
    try:
        evaluation.evaluate(arguments) if arguments.evaluate else run.train(arguments, command)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return fail(
            130, "stopped" if arguments.evaluate else "stopped; --resume goes on after the last epoch"
        )
    except BrokenPipeError:  # `pipeline.run` ends quietly
        raise
    except ArithmeticError as error:
        return fail(1, f"{error} (the best weights so far, if any, are in {arguments.output})")
    except (OSError, ValueError, MemoryError) as error:
        return evaluation.fail(error)
    return 0


def parse_arguments(argv: Sequence[str] | None) -> Namespace:
    """Return the arguments; those that make up the Recipe only where they were given."""
    parser = pipeline.make_parser(
        __doc__, "[options]", "python3 training/df_CNN.py --pairs --degrade 0.3 --output trained2"
    )
    parser.argument_default = argparse.SUPPRESS
    # fmt: off
    add = parser.add_argument_group("data").add_argument
    add("--data", type=Path, default=None, metavar="FOLDER", help="holds training/ and validation/, each with df/ and real/ (default: data)")
    add("--split-by-video", type=read_number, default=0, metavar="SHARE", help="without validation/: hold out this share of training's videos for validation")
    add("--resample", choices=pipeline.RESAMPLING, help="filter that brings faces to 256x256 (default: nearest, or that of --weights or --imitate; of views, theirs)")
    add("--zoom", type=pipeline.read_width, metavar="X", help=f"width of the square to look at, in widths of the face; only in crops by extract_faces.py, which are {pipeline.CROP_ZOOM} wide (default: {pipeline.CROP_ZOOM}, or as --weights or --imitate; of views, theirs)")
    add("--balance", action="store_true", help="draw data sets evenly, in a set its classes, in a class its kinds of forgery, in a kind its videos")
    add("--pairs", action="store_true", help="the same, and with a forged face <set>-<kind>_<video>... its original <set>-<video>..., in one batch and changed alike")
    add("--shares", type=read_shares, metavar="SET=X,...", help="with --balance or --pairs: draw these data sets X times as often as the others, dfdc=0.25,ffpp=2 say")
    add("--degrade", type=read_amount, metavar="STRENGTH", help="compress as videos and JPEG do, scale, blur, add noise and crop at random; 0.4 for our default, 1 is too strong for networks so small (default: 0, none)")
    add("--soft-labels", default="", metavar="TABLE", help="learn these scores, those of a larger network say, instead of 0 and 1: a CSV table with the columns path (relative to the folder training, or to one that it lies in) and score (1 = real, 0 = forged); make_views.py writes the images to score")
    add = parser.add_argument_group("network").add_argument
    add("--model", choices=("Meso4", "MesoInception4"), help=f"network to train (default: {PAPER.model})")
    add("--weights", metavar="FILE", help="start from these, ours or the authors'")
    add("--freeze", type=int, metavar="N", help=f"keep the weights of the first N of the four blocks (default: {PAPER.freeze})")
    add("--imitate", metavar="FILE", help="learn to give what the first three blocks of these weights give, and copy the rest: a quick way from one network to the other, before training it on labels")
    group = parser.add_argument_group("recipe")
    add = group.add_mutually_exclusive_group().add_argument
    add("--steps", type=read_count, metavar="N", help=f"batches to train on (default: {PAPER.steps})")
    add("--epochs", type=read_count, default=0, metavar="N", help="the same, in passes over the data")
    add = group.add_argument
    add("--batch-size", type=read_count, metavar="N", help=f"images (default: {PAPER.batch_size})")
    add("--learning-rate", type=read_number, metavar="RATE", help=f"of Adam, at the start (default: {PAPER.learning_rate})")
    add("--schedule", choices=("paper", "cosine", "plateau"), help=f"paper: a tenth every 1000 steps, down to 1e-6; cosine: to 0; plateau: a tenth after 3 epochs without improvement (default: {PAPER.schedule})")
    add("--loss", choices=("mse", "bce"), help=f"mean squared error or binary cross-entropy (default: {PAPER.loss})")
    add("--patience", type=int, metavar="N", help="end after N epochs without improvement (default: never)")
    add("--average", type=read_number, metavar="SHARE", help="validate and save a moving average of the weights that keeps this share at a step, 0.999 say (default: 0, the weights themselves)")
    add("--seed", type=int, metavar="N", help=f"of all that is random (default: {PAPER.seed})")
    add = parser.add_argument_group("output").add_argument
    add("--output", type=Path, default=None, metavar="FOLDER", help="default: trained; with --evaluate: where the weights are")
    add("--name", help="of the weights files (default: the model's)")
    add("--resume", action="store_true", default=False, help="go on with the training in --output, by its own recipe")
    add("--evaluate", action="store_true", default=False, help="do not train: evaluate --weights on data/validation, or on what their training held out")
    add("--calibrate", action="store_true", default=False, help="with --evaluate: find the threshold that does best and, given enough videos, the bounds of 'uncertain', and store them in the weights' card")
    add("--tensorboard", action="store_true", default=False, help="also write logs for TensorBoard")
    # fmt: on
    arguments = pipeline.parse(parser, argv)
    if reason := find_fault(arguments):
        parser.error(reason)
    if not arguments.evaluate:
        arguments.output = arguments.output or Path("trained")
    return arguments


def find_fault(arguments: Namespace) -> str:
    """Return what is wrong with the arguments, "" if nothing is."""
    given, output = PAPER._asdict() | vars(arguments), arguments.output or Path("trained")
    data = arguments.data or Path("data")
    among = [data / part for part in ("training", "validation") if is_within(output, data / part)]
    checks = [
        (
            os.path.basename(given["name"]) == given["name"] != "",
            f"--name {given['name']}: must be a file name; --output says where",
        ),
        (output.is_dir() or not output.exists(), f"--output {output}: must be a folder"),
        (not among, f"--output {output}: lies among the faces in {', '.join(map(str, among))}"),
        (0 <= given["seed"] < 2**32, f"--seed must be 0 to {2**32 - 1}, not {given['seed']}"),
        (0 <= given["freeze"] <= 4, f"--freeze must be 0 to 4, not {given['freeze']}"),
        (given["weights"] or not arguments.evaluate, "--evaluate: say which --weights"),
        (
            arguments.evaluate or not arguments.calibrate,
            "--calibrate: must come with --evaluate, after training",
        ),
        (not (arguments.evaluate and arguments.resume), "--evaluate: must not come with --resume"),
        (
            not (arguments.evaluate and arguments.split_by_video),
            "--evaluate: must not come with --split-by-video: what training held out is kept beside the weights",
        ),
        (
            0 <= arguments.split_by_video < 1,
            f"--split-by-video must be a share below 1, not {arguments.split_by_video:g}",
        ),
        (
            not given["shares"] or given["balance"] or given["pairs"] or arguments.resume,
            "--shares: must come with --balance or --pairs",
        ),
        (not given["soft_labels"] or not given["imitate"], "--soft-labels: must not come with --imitate"),
        (given["patience"] >= 0, f"--patience must be at least 0, not {given['patience']}"),
        (0 <= given["average"] < 1, f"--average must be a share below 1, not {given['average']:g}"),
        (given["learning_rate"] > 0, f"--learning-rate must be above 0, not {given['learning_rate']:g}"),
    ]
    return next((reason for right, reason in checks if not right), "")


def is_within(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


if __name__ == "__main__":
    pipeline.run(main)
