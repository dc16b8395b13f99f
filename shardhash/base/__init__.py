"""What every layer may use: options of command lines, timestamps, wakeups, and the allocator's settings."""
