"""Prepare a dataset, once and offline: plan, shards, statistics; resume, and repair."""
