"""Tells platforms of releases: Kubeflow Model Registry and MLflow (`announce` in the recipe).

The ledger alone decides what is released. A platform is brought up to date with it: entries are
looked up before they are made, so it may be done again after a crash between any two calls.
"""
