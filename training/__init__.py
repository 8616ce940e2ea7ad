"""Training and testing of 2-D backbones on the cached crops of a store. It decodes no video."""

import sys
from importlib.util import find_spec

from data_specs.extras import missing_extra
from data_specs.resources import explain_lack_of_memory

explain_lack_of_memory()  # before the imports that need the memory
if find_spec("torch") is None:
    absent = ModuleNotFoundError("No module named 'torch'", name="torch")
    advice = missing_extra(absent) or str(absent)
    if sys.argv[:1] == ["-m"]:  # during python -m training.train, before Python sets argv[0]
        sys.exit(f"{advice}")
    raise ModuleNotFoundError(advice, name="torch")
