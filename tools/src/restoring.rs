//! Requests that have to wait for a restore: the target refuses them while blocks are still moved back.
//!
//! Invariants:
//! - Only a restore is waited for; whoever else keeps the volume busy is named to the caller at once.

use crate::arguments::Wait;
use crate::client::Client;
use crate::context::Context;
use crate::exit::{ExitCode, Failure};
use cairn_target::control::api::VolumeReport;
use std::time::Duration;

const POLL: Duration = Duration::from_millis(200);

/// Makes `request`; where a restore under way is what it is refused for, again when that is done.
pub fn after_restore<T>(
    context: &Context,
    client: &Client,
    wait: &Wait,
    request: impl Fn() -> Result<T, Failure>,
) -> Result<T, Failure> {
    // A restore may end between the refusal and the look at it; whoever else keeps the volume busy still does then.
    let mut may_have_ended = true;
    loop {
        match request() {
            Err(refused) if refused.code == ExitCode::Busy && !wait.no_wait => {
                let waited = wait_for_restore(context, client)?;
                if !waited && !may_have_ended {
                    return Err(refused);
                }
                may_have_ended = waited;
            }
            answer => return answer,
        }
    }
}

/// Waits until no restore is under way. False where there was none.
fn wait_for_restore(context: &Context, client: &Client) -> Result<bool, Failure> {
    let mut waited = false;
    let mut shown_percent = None;
    while let Some(restore) = client.get::<VolumeReport>("/v1/volume")?.restore {
        let percent = restore.done_bytes * 100 / restore.total_bytes.max(1);
        if shown_percent.replace(percent) != Some(percent) {
            context.output.progress(&format!("Waiting for the restore of {}: {percent} % moved", restore.snapshot));
        }
        waited = true;
        std::thread::sleep(POLL);
    }
    Ok(waited)
}
