"""The papers' tables: what each says, its rows as experiments, and what comes out beside what was published.

r2r tables
r2r tables run digi2real-4 -j 2
r2r tables show digi2real-4 --md
"""
