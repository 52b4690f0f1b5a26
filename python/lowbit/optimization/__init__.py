"""Everything that makes a model small and fast, under one target: `lowbit.optimize`.

`candidates.py` says what a layer may become, and what a plan for all layers is. `training.py` trains a net as its plan
says.
"""
