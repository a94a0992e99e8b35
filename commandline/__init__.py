"""The flags of train.py, their aliases and checks."""
