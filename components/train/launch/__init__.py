"""Start training processes: some on this node, or a TrainJob of Kubeflow Trainer on many nodes.

No other part of the steps speaks to Kubernetes.
"""
