"""Everything that makes a model small and fast, under one target: `lowbit.optimize`.

`candidates.py` says what a layer may become, and what a plan for all layers is. `workshop.py` knows what each layer of
a module may become, and makes the model of a plan. `noises.py` says how far each candidate moves the outputs,
`prices.py` what it costs, `allocate.py` takes the best of it all. `loop.py` puts that together: plans are built,
measured and scored until one holds what was asked for (`targets.py`), and `result.py` is what comes out.

`training.py` trains a net as its plan says, `rounds.py` says which nets and plans are trained. `stages.py` keeps what
was found, so that a run goes on.
"""
