"""Cut a PyTorch model into stages that learn without waiting for one another."""
