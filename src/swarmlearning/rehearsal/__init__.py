"""The rehearsal before a training: every site runs it at the same time, over the nodes that run.

`model` makes parameters whose merge every site can compute alone; `script` says what is tried, by whom, and judges what
came of it; `perform` does it through the local door; `report` prints it. What goes wrong on purpose goes wrong in the
SL (`sl.drills`), not here.
"""
