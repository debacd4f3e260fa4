"""What one training process does. Imports torch and DeepSpeed, except for `job`."""
