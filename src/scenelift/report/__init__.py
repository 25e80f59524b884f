"""Results for people: one self-contained HTML file, a table for the terminal, and ``results.json``.

`write_report` turns `ReportData` into a page that needs nothing from elsewhere: pictures are data URIs,
charts inline SVG, point clouds base64, and a policy in the page lets none but its own scripts run.
"""

from scenelift.report.data import Cloud, Picture, ReportData, ReportRow, results_json, terminal_table
from scenelift.report.page import write_report

__all__ = ["Cloud", "Picture", "ReportData", "ReportRow", "results_json", "terminal_table", "write_report"]
