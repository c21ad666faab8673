"""From batches on a device to a trained network: recipe, network, optim, train, evaluate, checkpoint."""
