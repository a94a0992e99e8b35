"""What stands in for a figure that there are no runs for."""


class Gap(Exception):
    """Why a figure or table cannot be made from these runs: a few words."""
