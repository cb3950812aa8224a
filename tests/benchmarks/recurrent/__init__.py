"""What synthetic gradients of carried state are worth: longer sequences, and better models of text."""
