"""Where tasks run: the Dask cluster, its worker processes, the Prefect server and the set-up of processes."""
