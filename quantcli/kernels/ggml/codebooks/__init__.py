"""Types whose values stand in a table (iq4.py) or a book of rows.

search.py      IQ2 and IQ3; start.py: what they begin with, levels.py: points, lookup.py: rows
iq1_search.py  IQ1
neighbours.py  the rows of a book that are near a point
values.py      from rows to values
"""
