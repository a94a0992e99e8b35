"""Figures that cannot be made from the runs."""


class Gap(Exception):
    """Raised with a few words that say why these runs make no figure or table."""
