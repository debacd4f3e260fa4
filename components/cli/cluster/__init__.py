"""What is asked of Kubeflow Pipelines on a cluster."""
