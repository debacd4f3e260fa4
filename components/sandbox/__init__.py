"""Processes for code that is not ours: confined by the kernel, bounded in time, memory and output.

No privileges are needed, so a restricted pod can do it. Modules here import the standard library
alone: the confined process loads them too.
"""
