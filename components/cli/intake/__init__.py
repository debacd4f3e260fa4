"""Requests and feedback of production, as data of a recipe."""
