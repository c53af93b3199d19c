"""Where programs run: this machine, and others that a runner reaches."""
