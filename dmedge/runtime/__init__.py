"""One small Session protocol over torch, onnxruntime and executorch."""
