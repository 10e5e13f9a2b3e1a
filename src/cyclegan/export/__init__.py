"""Generators as files for other runtimes: ONNX, LiteRT, TensorFlow SavedModel."""
