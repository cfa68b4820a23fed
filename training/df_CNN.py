"""Train Meso4 or MesoInception4 on the faces in data/training|validation/<df,real>.

Without arguments: the paper's recipe. In the output folder: NAME.weights.h5 (to train on),
NAME.tflite (to score with) and NAME.json (the card) of the best epoch, by the validation AUC
averaged over datasets; history.csv, curves.png, evaluation.png; checkpoints for --resume.

Exit status: 0 trained, 1 stopped (no number, disk full), 2 wrong usage or unfit data.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository's root

import pipeline


def main() -> int:
    arguments = parse_arguments()
    with pipeline.silence_native_stderr():
        from training import run  # imports TensorFlow: seconds

    try:
        run.evaluate(arguments) if arguments.evaluate else run.train(arguments)
    except ArithmeticError as error:
        return fail(1, f"{error} (the best weights so far, if any, are in {arguments.output})")
    except (FileNotFoundError, NotADirectoryError, PermissionError, ValueError) as error:
        return fail(2, " ".join(str(error).split()))
    except (OSError, MemoryError, run.OpError) as error:  # the last: memory full, another worker lost
        return fail(1, (str(error).strip() or type(error).__name__).splitlines()[0])
    return 0


def fail(status: int, reason: object) -> int:
    print(f"df_CNN.py: {reason}", file=sys.stderr)
    return status


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shown = "(default: %(default)s)"

    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        type=Path,
        default=Path("data"),
        metavar="FOLDER",
        help=f"holds training/ and validation/, each with df/ and real/ {shown}",
    )
    data.add_argument(
        "--split-by-video",
        type=float,
        default=0,
        metavar="SHARE",
        help="without validation/: validate on this share of training's videos",
    )
    data.add_argument(
        "--resample",
        choices=pipeline.RESAMPLING,
        help="filter that brings faces to 256x256 (default: nearest, or as --weights or --imitate)",
    )
    data.add_argument(
        "--balance",
        action="store_true",
        help="draw classes evenly, in a class its datasets, in a dataset its videos",
    )

    network = parser.add_argument_group("network")
    network.add_argument("--model", choices=("Meso4", "MesoInception4"), default="Meso4", help=shown)
    network.add_argument("--weights", metavar="FILE", help="start from these, ours or the authors'")
    network.add_argument(
        "--freeze",
        type=int,
        default=0,
        metavar="N",
        help=f"keep the weights of the first N of the four blocks {shown}",
    )
    network.add_argument(
        "--imitate",
        metavar="FILE",
        help="learn to give what the first three blocks of these weights give, and take over the rest: a "
        "quick way from one network to the other, before training it on labels",
    )

    recipe = parser.add_argument_group("recipe")
    length = recipe.add_mutually_exclusive_group()
    length.add_argument(
        "--steps", type=pipeline.read_count, default=4000, metavar="N", help=f"batches to train on {shown}"
    )
    length.add_argument(
        "--epochs", type=pipeline.read_count, metavar="N", help="the same, in passes over the data"
    )
    recipe.add_argument(
        "--batch-size", type=pipeline.read_count, default=75, metavar="N", help=f"images {shown}"
    )
    recipe.add_argument(
        "--learning-rate", type=float, default=1e-3, metavar="RATE", help=f"of Adam, at the start {shown}"
    )
    recipe.add_argument(
        "--schedule",
        choices=("paper", "cosine", "plateau"),
        default="paper",
        help="paper: a tenth every 1000 steps, down to 1e-6; cosine: to 0; plateau: a "
        f"tenth after 3 epochs without improvement {shown}",
    )
    recipe.add_argument(
        "--loss",
        choices=("mse", "bce"),
        default="mse",
        help=f"mean squared error or binary cross-entropy {shown}",
    )
    recipe.add_argument(
        "--patience",
        type=int,
        default=0,
        metavar="N",
        help="end after N epochs without improvement (default: never)",
    )
    recipe.add_argument("--seed", type=int, default=0, metavar="N", help=shown)

    output = parser.add_argument_group("output")
    output.add_argument("--output", type=Path, default=Path("trained"), metavar="FOLDER", help=shown)
    output.add_argument("--name", help="of the weights files (default: the model's)")
    output.add_argument("--resume", action="store_true", help="go on with the training in --output")
    output.add_argument(
        "--evaluate", action="store_true", help="do not train: evaluate --weights on data/validation"
    )
    output.add_argument(
        "--calibrate",
        action="store_true",
        help="with --evaluate: store the threshold that does best in the weights' card",
    )
    output.add_argument("--tensorboard", action="store_true", help="also write logs for TensorBoard")

    arguments = parser.parse_args()
    arguments.name = arguments.name or arguments.model
    if Path(arguments.name).name != arguments.name:
        parser.error(f"--name {arguments.name}: wanted a file name: --output says where")
    if arguments.output.exists() and not arguments.output.is_dir():
        parser.error(f"--output {arguments.output}: wanted a folder")
    for part in ("training", "validation"):
        if arguments.output.resolve().is_relative_to((arguments.data / part).resolve()):
            parser.error(f"--output {arguments.output}: lies among the faces in {arguments.data / part}")
    if not 0 <= arguments.seed < 2**32:
        parser.error(f"--seed {arguments.seed}: wanted 0 to {2**32 - 1}")
    if arguments.evaluate and not arguments.weights:
        parser.error("--evaluate: say which --weights")
    if arguments.calibrate and not arguments.evaluate:
        parser.error("--calibrate: wanted with --evaluate, after training")
    if not 0 <= arguments.split_by_video < 1:
        parser.error(f"--split-by-video {arguments.split_by_video}: wanted a share below 1")
    if arguments.patience < 0:
        parser.error(f"--patience {arguments.patience}: wanted 0 or more")
    if not 0 < arguments.learning_rate < float("inf"):
        parser.error(f"--learning-rate {arguments.learning_rate}: wanted above 0")
    return arguments


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print(f"{os.linesep}df_CNN.py: stopped; --resume goes on after the last epoch", file=sys.stderr)
        sys.exit(130)
