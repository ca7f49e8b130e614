"""A site of static pages over all that was recorded: `write_site`. It opens from a file and needs no script."""

from vlm_ablate.reporting.site.entry import Entry
from vlm_ablate.reporting.site.write import check_folder, write_site

__all__ = ["Entry", "check_folder", "write_site"]
