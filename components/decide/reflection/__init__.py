"""Reflection on a finished round: measures, likely causes, and the plan of the next round."""
