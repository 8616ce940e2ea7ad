"""The offline stages, the flow that schedules them, and the command line."""
