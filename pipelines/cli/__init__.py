"""The command line: commands, progress bars, tables, checks and the demo."""
