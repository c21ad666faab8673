"""Join pipeline and model for every command: devices, images, trainings, trained networks."""
