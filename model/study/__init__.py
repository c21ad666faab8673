"""Study what trained networks compute: activations, gradients, ensembles, nearest neighbours."""
