"""From a parameter file to a run others can join, and checking a run that somebody else began."""
