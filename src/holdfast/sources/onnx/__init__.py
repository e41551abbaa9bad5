"""ONNX files: read with care, and turned into a module that `capture` takes like any other."""
