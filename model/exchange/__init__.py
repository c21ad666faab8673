"""Networks as files of other programs: safetensors, Caffe's and torchvision's names, ONNX."""
