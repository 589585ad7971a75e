"""What came of one `add`, in numbers and a few examples."""

from __future__ import annotations

from dataclasses import dataclass, field

from glasshouse.warehouse.intake.records import Kind

N_EXAMPLES = 5


@dataclass
class RowCounts:
    """What became of the rows of one kind from one source.

    A row is one value: a wide table's line with three ratings counts as three; a line that finds no image counts as
    one. `n_rows == n_used + n_rejected + n_missing`.
    """

    source: str
    kind: Kind
    n_used: int = 0
    n_rejected: int = 0
    n_missing: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def n_rows(self) -> int:
        """Rows read."""
        return self.n_used + self.n_rejected + self.n_missing


@dataclass
class AddReport:
    """What one `add` did.

    Attributes:
        n_new_images: pictures that the warehouse did not have.
        n_duplicate_pictures: new paths of pictures that it has under another path.
        n_known: paths that it had already, unchanged.
        n_repeated: paths given more than once in this call.
        n_failed: files that could not be used; they are in `failures` with their reasons.
        n_skipped: hidden files and files that cannot be pictures, passed over in folders.
        changed_paths: paths whose file is another picture now than when it was added before.
        failure_examples: a few of the failures, as `path: reason`.
        rows: one entry for each source and kind of rows.
        notes: sentences about how the sources were read.
    """

    n_new_images: int = 0
    n_duplicate_pictures: int = 0
    n_known: int = 0
    n_repeated: int = 0
    n_failed: int = 0
    n_skipped: int = 0
    changed_paths: list[str] = field(default_factory=list)
    failure_examples: list[str] = field(default_factory=list)
    rows: list[RowCounts] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def n_rejected(self) -> int:
        """Rows of tables that could not be used, over all kinds."""
        return sum(counts.n_rejected for counts in self.rows)

    @property
    def is_clean(self) -> bool:
        """True when every file and every row could be used; what `--strict` asks for."""
        return self.n_failed == 0 and self.n_rejected == 0

    def count_failure(self, path: str, reason: str) -> None:
        """Count a failure and keep the first few as examples."""
        self.n_failed += 1
        if len(self.failure_examples) < N_EXAMPLES:
            self.failure_examples.append(f"{path}: {reason}")
