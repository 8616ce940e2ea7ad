"""The offline stages, the flow that schedules them, and the command line."""

from data_specs.resources import explain_lack_of_memory

explain_lack_of_memory()  # before the libraries, which are what needs the memory
