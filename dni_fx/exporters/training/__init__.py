"""Training steps of a cut model as graphs of ordinary ONNX operators."""
