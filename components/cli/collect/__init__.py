"""The verb `gc`: delete what no release, no run that is kept and no open work needs."""
