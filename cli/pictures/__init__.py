"""Draw figures in pixels: curves, filters, and panels of images."""
