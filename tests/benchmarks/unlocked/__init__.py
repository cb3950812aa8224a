"""What the benchmarks of memory and of throughput share: nets, ways to train them, meters and tables."""
