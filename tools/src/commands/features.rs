//! `cairn features`: what the running kernel offers, and what is missing and why.

use crate::context::Context;
use crate::exit::Outcome;
use crate::output::table::table;
use cairn_target::ublk::features::{self, Feature};
use serde::Serialize;

#[derive(Serialize)]
struct Answer {
    /// ublk can be used; where not, volumes are served over NBD.
    ublk: bool,
    /// Why not; null where it can.
    obstacle: Option<String>,
    features: Vec<Feature>,
}

pub fn run(context: &Context) -> Outcome {
    features::load_driver();
    let obstacle = features::obstacle();
    let answer = Answer { ublk: obstacle.is_none(), obstacle, features: features::ladder() };
    context.output.answer(&answer, text)
}

fn text(answer: &Answer) -> String {
    let rows: Vec<[String; 4]> = answer
        .features
        .iter()
        .map(|feature| {
            let present = match (feature.present, feature.required) {
                (true, _) => "yes",
                (false, true) => "NO",
                (false, false) => "no",
            };
            [feature.key.clone(), present.to_owned(), feature.purpose.clone(), feature.reason.clone()]
        })
        .collect();
    let table = table(["FEATURE", "THERE", "GOOD FOR", "WHY NOT"], &rows);
    match &answer.obstacle {
        None => format!("{table}\nVolumes are block devices here (ublk).\n"),
        Some(obstacle) => format!("{table}\n{obstacle}\nVolumes are served over NBD instead.\n"),
    }
}
