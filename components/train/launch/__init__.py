"""How training processes are started: several here, or a TrainJob of Kubeflow Trainer on many nodes.
The only place of the steps that speaks to Kubernetes."""
