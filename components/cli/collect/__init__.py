"""The verb `gc`: delete what no release, no run that is kept and no open work needs."""

DEFAULT_KEPT_RUNS = 10
# A week: to change one's mind, and for listings that a server gives late.
DEFAULT_GRACE_HOURS = 168.0
