"""How every answer looks: as text, in a notebook, as a table and as a chart."""
