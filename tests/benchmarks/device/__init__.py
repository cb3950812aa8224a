"""What a device without PyTorch learns, and what it needs for it."""
