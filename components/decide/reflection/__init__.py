"""What a finished round shows, why, and the plan of the next one."""
