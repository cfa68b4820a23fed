"""Train the networks: everything behind training/df_CNN.py."""

import classifiers  # noqa: F401  (sets TensorFlow's environment before anything here imports it)
