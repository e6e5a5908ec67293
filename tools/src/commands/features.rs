//! `cairn features`: what the running kernel offers, and what is missing and why.

use crate::context::Context;
use crate::exit::Outcome;

pub fn run(context: &Context) -> Outcome {
    context.output.answer(&serde_json::json!({}), |_| String::new())
}
