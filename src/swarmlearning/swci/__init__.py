"""SWCI, the command interface: one table of commands, and a shell, scripts, a REST service and a Python class over it.

`Swci` is the Python class; it is imported when it is asked for, so that nothing else needs what it needs.
"""
