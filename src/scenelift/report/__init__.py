"""Results for people: one self-contained HTML file, a table for the terminal, and ``results.json``.

`write_report` turns `ReportData` into a page without scripts or anything from elsewhere: pictures are data
URIs, charts are inline SVG, and a content security policy in the page forbids the rest.
"""

from scenelift.report.data import Picture, ReportData, ReportRow, results_json, terminal_table
from scenelift.report.page import write_report

__all__ = ["Picture", "ReportData", "ReportRow", "results_json", "terminal_table", "write_report"]
