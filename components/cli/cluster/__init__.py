"""Runs and schedules on a cluster with Kubeflow Pipelines."""
