"""Reports of profiles, and pages of the repository whose numbers come from them."""

from collections.abc import Iterator

from dpo4rec_utils.evidence.records import Records
from dpo4rec_utils.evidence.report import write_report
from dpo4rec_utils.files import StudyError, project_root


def report_profiles(profile: str = "") -> Iterator[str]:
    """Draw the report of a profile, or of every profile with a manifest; yields what was read, then what was written."""
    results = project_root() / "results"
    names = [profile] if profile else sorted(path.parent.name for path in results.glob("*/manifest.json"))
    if not names:
        raise StudyError("results/ holds no records; make them with `make study`.")
    for name in names:
        records = Records(results / name)
        yield records.provenance()
        yield f"wrote {write_report(records).relative_to(project_root())}"
