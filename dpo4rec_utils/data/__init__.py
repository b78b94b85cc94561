"""Data: three tables, users with histories and futures, the user split, candidate lists."""
