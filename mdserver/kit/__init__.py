"""Commands for plugin authors: generate a plugin project, and print the scorecard of a plugin."""
