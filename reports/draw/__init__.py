"""Drawing: figures, tables and pictures from what was computed."""
