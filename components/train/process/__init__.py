"""One training process. Its modules import torch and DeepSpeed, except for `job`."""
