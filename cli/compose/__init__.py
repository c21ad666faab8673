"""What joins pipeline and model for every command: devices, images, trainings, trained networks."""
