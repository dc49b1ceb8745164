"""The demo: train a small network on scanned digits, halve its work, compare both ONNX files."""
