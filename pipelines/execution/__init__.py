"""Execution of tasks: the Dask cluster, its worker processes, the Prefect server and process set-up."""
