"""One file per foreign project. The names that a project uses occur in its file only."""
