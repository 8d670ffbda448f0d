"""The verb ``alan configs``: the configurations that are installed with ALAN."""

from __future__ import annotations

import sys
from itertools import groupby

from alan.shipped import shipped_configs, summary

#: Verb that takes the configurations of a group, where it differs from the name of the group.
_VERBS = {"active": "active run", "dino": "fit", "raptor": "fit", "sim": "fit", "supervised": "fit"}


def configs() -> None:
    """List the configurations that are installed with ALAN, each with the first sentence of its comment.

    Give a name to ``--config``, as in ``alan fit --config sim/small``; options after it replace single values.
    """
    found = shipped_configs()
    width = max(map(len, found), default=0)
    lines = []
    for group, names in groupby(found, key=lambda name: name.partition("/")[0]):
        lines += ["", f"{group}: alan {_VERBS.get(group, group)} --config NAME"]
        lines += [f"  {name:<{width}}  {summary(found[name])}" for name in names]
    sys.stdout.write("\n".join(lines[1:]) + "\n")
