"""Many runs of train.py: which ones, what is left of them to do, and where they are made."""
