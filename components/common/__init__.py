"""What all steps share: contracts, store, receipts. Imports no kfp, torch, transformers or
deepspeed."""
