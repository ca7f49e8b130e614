"""Records to tables, figures and verdicts.

`report` computes the model of a table from tracked records, `render` draws it, `write_results` writes everything into
a folder. matplotlib is imported only where a picture is drawn, and nothing here imports torch, mlflow or pandas.
"""

from vlm_ablate.reporting.export import write_results
from vlm_ablate.reporting.figures import figure_paper, figure_seen
from vlm_ablate.reporting.frame import Report, report
from vlm_ablate.reporting.renderers import FORMATS, render

__all__ = ["FORMATS", "Report", "figure_paper", "figure_seen", "render", "report", "write_results"]
