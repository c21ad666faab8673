"""Read an ImageNet root in any of its layouts: its classes and the images of each split."""
