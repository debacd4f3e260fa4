"""Ratchet as an installed package: the command `ratchet`, usable from any folder.

The wheel holds one top-level package, this one, with a copy of the code below `source/`. The code
imports itself as `components` and `pipeline`; such names must not be spread over site-packages, so
`__main__` puts `source/` on the import path of this command and of its child processes alone.
"""

__version__ = "0.1.0"
