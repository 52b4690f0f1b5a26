"""What everything is said in: graphs and weights, patterns of zeros, codes in bytes, sizes and their limits."""
