"""One file per foreign project. Each alone knows what its project calls things."""
