"""Memory, batch sizes, communication and time of a pretraining run, computed before it starts.

Owns: the arithmetic behind ``launch/plan.py`` and the tables of docs. Nothing here runs a model; with
``--gpu cpu`` it measures this machine's own speed, which takes a second.
May import: engine, model, parallel, optim, data, config, common.
Start reading: ``plan.py`` computes one layout and searches for the best one.

    settings      model, machine, layout and recipe, as the user gives them
    machine       an accelerator's published figures, or this machine's measured ones
    parameters    sizes of a rank's tensors, read from the model on the meta device
    states        weights, masters, gradients, moments and buckets under each ZeRO stage
    activations   what a micro batch saves for backward, from the encoder's own table
    rank          one rank of a layout
    memory        all of these at each instant
    collectives   bytes and times of all communication between ranks
    recipe        what a run trains on: sequences, real tokens, FLOPs
    timing        the time of one update, part by part
    report        text and JSON
    scale         the tables of the scaling documentation
"""
