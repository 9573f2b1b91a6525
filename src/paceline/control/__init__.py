"""The online half of a decision: a budget and what is known of the request in, a configuration out; pure.

Not here: how latencies are predicted (`paceline.estimate`), the engine's queue (`paceline.schedule`), anything that
waits or measures.
"""

from paceline.control.table import LookupTable, TableStatistics
from paceline.control.table_entry import AggregationMethod, TableEntry, TableMetadata

__all__ = ["AggregationMethod", "LookupTable", "TableEntry", "TableMetadata", "TableStatistics"]
