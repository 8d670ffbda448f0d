from .active import write_active_report
from .analysis import write_analysis_report
from .html import write_report
from .search import write_search_report

__all__ = [
    "write_active_report",
    "write_analysis_report",
    "write_report",
    "write_search_report",
]
