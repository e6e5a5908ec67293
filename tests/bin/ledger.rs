//! Prints what the ledger of long test runs adds up to, and writes it into docs/TESTING.md.

use cairn_tests::ledger;
use std::path::Path;

fn main() -> Result<(), String> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let table = ledger::table(&ledger::read(&docs.join("ledger"))?);
    let path = docs.join("TESTING.md");
    let page = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    std::fs::write(&path, ledger::replace_totals(&page, &table)?)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    print!("{table}");
    Ok(())
}
