"""From float to integer layers: which layers, what ranges, how weights are rounded, under what accuracy budget."""
