"""Turn an ImageNet root into batches on a device.

Flat is what a batch meets (batches, order, graph; files for predict), the dataset that it comes from, and
what more than one room needs: how one image is decoded, how files are written and read, processes, errors.

source/  an ImageNet root in any of its shapes: its classes and images
prep/    once and offline: a prepared dataset of them
"""

import os

# DALI uses its buffers of this size and more again, rather than give them back and take fresh ones, which
# cost a fault a page: a tenth of the loader's time. It reads this when it is imported.
os.environ.setdefault("DALI_MALLOC_POOL_THRESHOLD", "64k")
