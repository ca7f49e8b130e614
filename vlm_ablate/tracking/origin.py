"""Tags that say on what machine and with which code a run was computed."""

from __future__ import annotations

from vlm_ablate.provenance import git_revision, library_versions, machine, threads
from vlm_ablate.tracking import schema


def provenance_tags() -> dict[str, str]:
    """Tags for git revision, versions, machine and thread count of this process."""
    revision = git_revision()
    tags = schema.json_tag(schema.VERSIONS, library_versions())
    tags |= {schema.MACHINE: machine(), schema.THREADS: threads(), schema.GIT: revision}
    # MLflow's own names, which its UI shows in the Source and Version columns.
    tags |= {"mlflow.source.name": "vlm-ablate run", "mlflow.source.type": "LOCAL"}
    if not revision.startswith("release"):
        tags["mlflow.source.git.commit"] = revision.removesuffix("+changes")
    return tags
