"""Train the networks: everything behind training/df_CNN.py, and the faces to train on."""
