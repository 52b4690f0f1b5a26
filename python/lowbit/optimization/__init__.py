"""Everything that makes a model small and fast, under one target: `lowbit.optimize`.

`candidates.py` says what a layer may become, and what a plan for all layers is.
"""
