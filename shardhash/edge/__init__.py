"""``shardhash edge``: a small server for the builds of this machine, there when it is needed, and gone afterwards."""
