"""Convert networks to and from other programs' files: safetensors, Caffe's and torchvision's names, ONNX."""
