"""Who trains: this process alone, or the workers that Horovod joins."""
