"""Training and testing of 2-D backbones on the cached crops of a store. It decodes no video."""

from data_specs.resources import explain_lack_of_memory

explain_lack_of_memory()  # before the libraries, which are what needs the memory
