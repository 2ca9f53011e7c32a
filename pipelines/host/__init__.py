"""This process and this machine: processes, files of users, signals, environment."""
