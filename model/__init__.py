"""From batches on a device to a trained network.

Flat is what a batch meets (replicas, placement, train, step, network, lrn, optim; evaluate after it), what
tells it how (recipe, schedule), what is kept of it (run, checkpoint), and what more than one room needs.

baselines/  the systems before 2012 that the paper compares with
exchange/   networks as files of other programs
study/      what trained networks make of images
"""
