"""Costs of a campaign, told before anything is spent.

recipe ─► trial, or an earlier run ─► Calibration ─► Forecast ─► table or JSON
"""
