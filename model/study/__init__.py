"""What trained networks make of images: layers, gradients, averages, nearest neighbours."""
