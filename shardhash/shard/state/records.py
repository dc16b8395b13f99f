"""Records: the absolute changes that a shard's log keeps, and that its table applies.

A record says how something *is* from now on ("mapping k is v", "mapping k is gone"), never how it changes. So
applying a log twice, or over a snapshot that was taken while the log grew, ends in the same state.

A record is a JSON array, its kind first. Hashes are text. Times are integers, microseconds since 1970 UTC.

==========  ====================================================================================================
kind        fields
==========  ====================================================================================================
``row``     method, taskhash, outhash, created, owner, PN, PV, PR, task, siginfo reference, unihash, gc mark.
            The outhash row is this; unless unihash is null, the mapping (method, taskhash) is unihash with this
            mark. The one record of a report. The siginfo reference is 0 for none (see storage/siginfo.py).
``report``  the fields of ``row``. What that says, and the index of this outhash holds this taskhash: the one record of
            a report whose hashes are both here.
``map``     method, taskhash, unihash, gc mark. The mapping is this.
``unmap``   method, [taskhash, ...]. These mappings are gone.
``unrow``   method, [[taskhash, outhash], ...]. These outhash rows are gone.
``mark``    gc mark, method, [taskhash, ...]. These mappings carry this mark.
``idx``     method, outhash, taskhash, created. The index of this outhash holds this taskhash.
``unidx``   method, [[outhash, taskhash], ...]. The index does not hold these.
``set``     kind ("user", "config"), name, value. The entry is value, any JSON; null: there is none.
==========  ====================================================================================================
"""

from __future__ import annotations

from typing import Any, TypeAlias

Record: TypeAlias = tuple[Any, ...]
"""(kind, field, ...) as in the table above; lists where the table has brackets."""

ROW = "row"
REPORT = "report"
MAP = "map"
UNMAP = "unmap"
UNROW = "unrow"
MARK = "mark"
IDX = "idx"
UNIDX = "unidx"
SET = "set"
