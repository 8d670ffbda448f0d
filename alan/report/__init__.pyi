from .analysis import write_analysis_report
from .html import write_report

__all__ = [
    "write_analysis_report",
    "write_report",
]
