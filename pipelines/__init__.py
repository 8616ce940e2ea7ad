"""The preprocessing stages, the flow that schedules them, and the command line."""

from data_specs.resources import explain_lack_of_memory

explain_lack_of_memory()  # before the imports below this package, which need the most memory
