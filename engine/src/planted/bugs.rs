//! The planted bugs: what each does, and which law it breaks.

/// One planted bug.
#[derive(Clone, Copy, Debug)]
pub struct Bug {
    /// What `CAIRN_PLANTED` calls it.
    pub name: &'static str,
    /// The law of the design that it breaks.
    pub law: &'static str,
    /// What is done wrong.
    pub mistake: &'static str,
}

const fn bug(name: &'static str, law: &'static str, mistake: &'static str) -> Bug {
    Bug { name, law, mistake }
}

/// Not a mistake of the engine: a test that fails when it is told to. A runner that lets it live sees nothing.
pub const CANARY: Bug = bug("canary", "none", "a test fails because it is told to");

const BEFORE_IMAGE: &str = "2 before-image first";
const EXACT: &str = "3 exact or broken";
const ACKED: &str = "4 acked is acked";
const PRODUCTION: &str = "5 production first";

/// All of them, the canary first.
pub const BUGS: &[Bug] = &[
    CANARY,
    // The write path.
    bug("saved-after-the-write", BEFORE_IMAGE, "the old content is read when the new one is on the origin already"),
    bug("partial-blocks-not-saved", BEFORE_IMAGE, "only blocks that a write covers whole are saved"),
    bug("last-block-missed", BEFORE_IMAGE, "the test for needed blocks leaves out the last of the range"),
    bug("zeroes-skip-the-save", BEFORE_IMAGE, "a write of zeroes goes to the origin like a discard"),
    bug("discard-skips-the-save", BEFORE_IMAGE, "a discard is passed down whatever snapshots need"),
    bug("record-left-volatile", BEFORE_IMAGE, "no flush and no FUA between the record and the overwrite"),
    bug("settled-before-durable", BEFORE_IMAGE, "the needed bit is cleared while the record is in flight"),
    bug("failed-save-ignored", BEFORE_IMAGE, "the store took nothing (ENOSPC, EIO), and the write goes through"),
    bug("unreadable-saved-as-zeroes", EXACT, "an origin block that cannot be read is saved as zeroes"),
    bug("waits-before-saving", PRODUCTION, "a request waits for claims before it saves what it claimed itself"),
    bug("failed-claim-kept", PRODUCTION, "a save that failed gives its claims back to nobody"),
    bug("stale-claim-kept", PRODUCTION, "a save that came too late for its epoch keeps its claims"),
    bug("settling-wakes-nobody", PRODUCTION, "who waits for a claim is not woken when it is settled"),
    bug("next-batch-acknowledged", PRODUCTION, "a record that completes wakes the savers of the next one, too"),
    bug("attempt-used-twice", EXACT, "the retry of a record carries the number of the failed attempt"),
    bug("watch-logged-after-write", EXACT, "a watched block is written before its hashes are logged"),
    // The cut.
    bug("cut-without-flush", EXACT, "the origin is not flushed between the drain and the snapshot record"),
    bug("epoch-switched-before-drain", EXACT, "a cut does not wait for the writes in flight"),
    bug("doubtful-cut-not-switched", EXACT, "after a cut in doubt the old epoch goes on"),
    bug("gate-left-closed", PRODUCTION, "a cut that timed out forgets to open the gate"),
    // Flushes.
    bug("flush-of-the-wrong-device", ACKED, "a flush of the volume goes to the store"),
    bug("durable-zeroes-not-flushed", ACKED, "FUA is dropped from a write of zeroes"),
    bug("failed-flush-retried", ACKED, "a flush that failed is tried again, and then succeeds"),
    bug("flush-ignores-other-lanes", ACKED, "a flush does not look whether another lane's failed meanwhile"),
    bug("failed-flush-of-another-trusted", EXACT, "what another's failed flush may have lost is called durable"),
    bug("flush-latch-reset-at-attach", ACKED, "an attach forgets that a flush had failed"),
    // Reading.
    bug("no-second-look", EXACT, "a snapshot's read of the origin is not checked for a save meanwhile"),
    bug("second-look-in-old-view", EXACT, "it is checked against the index as it was before the read"),
    bug("image-not-verified", EXACT, "the checksum of a before-image is not compared"),
    bug("last-of-run-missed", EXACT, "a lookup ends in front of the last block of a run"),
    bug("second-save-wins", EXACT, "a block is saved again after an attach, and readers get the second save"),
    // Sealing, merging, deleting.
    bug("run-left-volatile", EXACT, "the catalog names a run before it is durable"),
    bug("spill-covers-too-much", EXACT, "a spilled map claims records that were published after it was frozen"),
    bug("merge-drops-the-cut", EXACT, "the first epoch of a snapshot counts as of the snapshot before"),
    bug("merge-frees-shared-segment", EXACT, "a merge frees segments in which older snapshots still need a few blocks"),
    bug("delete-frees-needed-epoch", EXACT, "the epoch of the oldest snapshot is freed with those before it"),
    bug("doubtful-hand-out-lost", PRODUCTION, "segments whose hand-out the store did not confirm are not used again"),
    bug("segment-freed-under-reader", EXACT, "segments are handed out again while a reader reads them"),
    // The catalog and the superblock.
    bug("append-left-volatile", EXACT, "a catalog record is acted on before it is durable"),
    bug("checkpoint-left-volatile", EXACT, "the superblock points to a checkpoint that is not durable yet"),
    bug("failed-append-forgotten", EXACT, "an append in doubt is followed by another under the same sequence"),
    bug(
        "earlier-session-counts",
        EXACT,
        "what is left of an earlier session's last append may count as a record of this one",
    ),
    bug("lost-catalog-record-ends-the-log", EXACT, "a damaged catalog record passes for the end of the log"),
    bug("older-superblock-wins", EXACT, "of two valid superblocks copy A is taken, whatever its sequence"),
    // Recovery.
    bug("torn-record-accepted", EXACT, "the images of a lane's last record are not checked"),
    bug("checksum-misses-entries", EXACT, "the checksum of a record does not cover its entries"),
    bug("incarnation-not-compared", EXACT, "a record of an earlier life of its segment counts"),
    bug("read-error-ends-the-log", EXACT, "a segment that cannot be read passes for an empty one"),
    bug("lost-record-unnoticed", EXACT, "a gap in the sequence of a lane's records breaks nothing"),
    bug("first-attempt-counts", EXACT, "of two attempts of one record the failed one is believed"),
    bug("attach-trusts-volatile", EXACT, "what is read at an attach is trusted without a flush"),
    bug("origin-not-flushed-at-attach", EXACT, "the watch relies on content that a killed process left volatile"),
    bug("recovery-in-two-steps", EXACT, "segments are released before the runs of what they hold are installed"),
    bug("host-recorded-too-early", EXACT, "an attach that fails half-way forgets whose store it was"),
    // In-use maps.
    bug("write-leaves-the-block-free", EXACT, "a write to a block that is not in use does not make it so"),
    bug("older-snapshots-forgotten", EXACT, "what is not in use is not saved for older snapshots that have it either"),
    bug("untrusted-region-not-recorded", EXACT, "after a crash the map has holes where something was written since"),
    bug("untrusted-regions-trusted", EXACT, "an attach believes the map also where it is recorded as out of date"),
    bug(
        "writes-after-the-cut-trusted",
        EXACT,
        "a new map on the store hides what was written while it was being written",
    ),
    bug("holes-show-what-is-there", EXACT, "a snapshot shows in its holes whatever the disk holds there now"),
    bug("restore-keeps-the-map", EXACT, "a restored volume keeps the in-use map of before"),
    // Failure.
    bug("broken-mark-after-overwrite", EXACT, "saving stops before the snapshots are recorded as broken"),
    bug("break-recorded-nowhere", EXACT, "saving stops though neither store nor state directory took the mark"),
    bug("late-break-recorded-afterwards", EXACT, "the store is given up before the state directory says so"),
    bug(
        "late-readers-not-refused",
        EXACT,
        "readers are refused when the store is back, not before the first overwrite",
    ),
    bug("late-record-published", EXACT, "a record that completes when its savers have left counts as their save"),
    bug("late-store-never-late", PRODUCTION, "what waits for the store is not let go when that is given up"),
    // Restore and growth.
    bug("restore-skips-the-save", EXACT, "a restore overwrites blocks without saving them"),
    bug("restore-takes-writes-back", ACKED, "a write during a restore does not wait until its block is moved"),
    bug("moved-mark-before-flush", EXACT, "blocks are marked as moved before the origin is flushed"),
    bug("moved-mark-volatile", ACKED, "the mark of a moved block is kept in memory only"),
    bug("restore-not-resumed", EXACT, "after a crash a restore is not gone on with"),
    bug("growth-stops-saving", EXACT, "the epoch that a growth opens saves nothing"),
    // Deltas and bookmarks.
    bug("delta-begins-too-late", EXACT, "a delta leaves out what was saved in the first epoch of its older end"),
    bug("delta-forgets-the-maps", EXACT, "a delta leaves out what no run holds yet"),
    bug("delta-joins-one-half", EXACT, "a merged bitmap is made of the first of its halves alone"),
    bug("merge-forgets-bookmarks", EXACT, "what was saved after a bookmark counts as saved before it"),
    bug("bookmarks-keep-nothing", EXACT, "where only bookmarks are left, overwrites are recorded nowhere"),
    bug("marked-after-the-write", EXACT, "where only bookmarks are left, an overwrite is recorded when it is done"),
    bug("merge-drops-marks", EXACT, "a merge leaves out what no snapshot shows, though a bookmark needs to know of it"),
    bug("bookmark-in-two-records", EXACT, "a snapshot is deleted in one record, and its bookmark made in another"),
];
