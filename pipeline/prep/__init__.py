"""Prepare a dataset, once and offline: plan, shards, statistics; go on, and repair."""
