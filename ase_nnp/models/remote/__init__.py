"""Models in environments of their own: a virtual environment, a worker process, a local socket."""
