"""From an ImageNet root to batches on a device.

source -> prep (uses image, statistics, dataset), once and offline;
dataset -> batches (uses order, graph), every epoch.
"""

import os

# DALI uses its buffers of this size and more again, rather than give them back and take fresh ones, which
# cost a fault a page: a tenth of the loader's time. It reads this when it is imported.
os.environ.setdefault("DALI_MALLOC_POOL_THRESHOLD", "64k")
