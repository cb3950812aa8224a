"""The training loop around a runtime: epochs, reports, checkpoints, and what happens on the way."""
