"""Measurements, side by side in one run, which assert nothing: `python -m tests.benchmarks.NAME`."""
