"""How well and how fast cut nets learn, beside backprop: `python -m tests.benchmarks.learning.NAME`."""
