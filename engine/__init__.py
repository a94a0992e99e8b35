"""The driver: everything between the command line and the folder that a run leaves."""
