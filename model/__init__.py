"""Turn batches on a device into a trained network.

The files here are those that a batch passes (replicas, placement, train, step, network, lrn, optim; then
evaluate), what configures them (recipe, schedule), what is saved (run, checkpoint), and what all rooms need.

baselines/  the systems before 2012 that the paper compares with
exchange/   networks as files of other programs
study/      activations, gradients, ensembles and neighbours of trained networks
"""
