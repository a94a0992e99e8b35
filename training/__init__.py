"""Training under a budget: the loop, its batches, its network, its steps and rates."""
