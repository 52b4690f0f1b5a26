"""Weights that other programs wrote, as a `Weight`: bytes and tensors in, numbers unchanged."""
