"""Layers that are swapped into a torch module in place and run without a captured graph."""
