"""The comparison as one self-contained HTML page, and its charts one by one."""

from compare.page.document import as_html
from compare.page.figures import figure_svg

__all__ = ["as_html", "figure_svg"]
