"""A Store on PostgreSQL, for those who need more than one machine: any number of servers share one database.

schema.py has the tables and their migrations, codec.py what a column holds, addresses.py and connections.py how
statements reach the database and what its errors mean, locks.py what waits for what; changes.py and following.py what
servers tell each other, so that they may answer from memory; lookups.py and report_rounds.py how questions and reports
of a tick go together, report_plan.py what reports change, walks.py and collection.py what goes over whole tables,
asking.py when mappings were last asked for, and collector.py, with collector_sql.py, collections by that; store.py the
Store. Needs psycopg 3 (`pip install 'shardhash[postgresql]'`); imported only when a database is asked for.
"""
