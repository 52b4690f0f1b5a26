"""Running graphs without torch: files, the calling convention, compiled sessions, profiles and the machine's limits."""
