"""Hold the commands, one file each; none imports another."""
