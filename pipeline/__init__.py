"""From an ImageNet root to batches on a device.

source -> prep (uses image, statistics, dataset), once and offline;
dataset -> batches (uses order, graph), every epoch.
"""
