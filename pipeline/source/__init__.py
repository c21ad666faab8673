"""An ImageNet root in any of its shapes: its classes and the images of each split."""
