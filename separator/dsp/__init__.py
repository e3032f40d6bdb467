"""Signal processing that knows nothing of models, files or commands: plain functions and generators over tensors."""
