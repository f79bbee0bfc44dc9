"""What authors of plugins get on the command line: a project to begin with, and the scorecard."""
