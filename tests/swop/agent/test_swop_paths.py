"""SW-15: what goes on the ledger, where every member reads it for good, names no paths of the host."""

import pytest

from swarmlearning.swop.telling import hide_paths


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("privatedata '/data/onco-2024' of node 1: it is not there", "privatedata '[path]' of node 1: it is not there"),
        ("cannot write /var/lib/swop/x.json: no space", "cannot write [path]: no space"),
        ('File "/platform/model/train.py", line 3', 'File "/platform/model/train.py", line 3'),
        ('File "/opt/modelling/x.py"', 'File "[path]"'),
        ("src:/srv/a and (/srv/b), [/srv/c]", "src:[path] and ([path]), [[path]]"),
        ("https://models.example/a/b of 3/4 and a/b", "https://models.example/a/b of 3/4 and a/b"),
        ("ImportError: /usr/lib/libfoo.so.1", "ImportError: /usr/lib/libfoo.so.1"),
        ("/", "/"),
    ],
)
def test_sw15_paths_are_left_out_but_for_those_that_the_task_names(text: str, told: str) -> None:
    assert hide_paths(text, ["/opt/model", "/platform/data/", "/"]) == told
