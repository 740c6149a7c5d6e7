"""The report: one self-contained HTML file made from ``summary.json``. See ``medgraft.report.page.build``."""
