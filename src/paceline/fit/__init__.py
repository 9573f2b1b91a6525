"""The offline half's last step: profiles in, the files that controllers load out.

Not here: reading those files at run time (`paceline.estimate`, `paceline.control`), and judging them
(`paceline.evaluate`).
"""

from paceline.fit.table import build_dataset_tables, build_lookup_table, build_lookup_table_from_core_exp, save_table

__all__ = ["build_dataset_tables", "build_lookup_table", "build_lookup_table_from_core_exp", "save_table"]
