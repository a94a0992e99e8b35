"""Tables and figures from the runs in a results folder."""
