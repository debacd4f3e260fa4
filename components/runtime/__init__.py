"""The surroundings of a step: context, receipts, progress, entry points.

Imports no kfp, torch, transformers or deepspeed.
"""
