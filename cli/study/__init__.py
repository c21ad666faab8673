"""What the commands that study a trained network compute and write."""
