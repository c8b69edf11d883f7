"""Print the tables of docs/data.md."""

from stages.fetch.catalogue import tables

print(tables(), end="")
