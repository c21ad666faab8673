"""Implement the systems before 2012 that the paper's tables compare the network with."""
