"""One run: its parts, its device, its folder, what survives of it."""
