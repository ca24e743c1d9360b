"""What a training run needs and takes, computed before it is started: ``launch/plan.py``.

    settings      what is asked: model, machine, layout, recipe
    machine       an accelerator's published figures, or this machine's measured ones
    parameters    sizes of a rank's tensors
    states        weights, masters, gradients, moments and buckets under each ZeRO stage
    activations   what a micro batch keeps for backward, from one table of coefficients
    collectives   bytes and times of every exchange between ranks
    recipe        what a run trains on: sequences, real tokens, FLOPs
    timing        the time of one update, part by part
    plan          all of it for one layout; the search for the best one
    report        text and JSON
    scale         the tables of docs/reference/planner.md

Pure arithmetic over one description of the program. Nothing here runs a model; on ``--gpu cpu`` the
machine's own speed is measured, in a second.
"""
