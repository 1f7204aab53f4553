"""Several processes on one task: a process group that trains together, and work shared through a folder."""
