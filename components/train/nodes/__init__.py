"""Training on many nodes: a TrainJob of Kubeflow Trainer. The only place of the steps that speaks
to Kubernetes."""
