"""The commands, a module a topic: records of what can be asked for, what is done about it, and how the answer looks."""
