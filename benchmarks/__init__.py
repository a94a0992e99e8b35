"""Measurements of speed; README.md has the commands and the last results."""
