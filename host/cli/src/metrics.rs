//! `marram metrics`: the host's numbers as they came, in Prometheus' text format.

use crate::{args::Metrics, client::Call, config, failure::Failure, output};

pub(crate) fn metrics(args: &Metrics) -> Result<(), Failure> {
    let data = config::data_folder(&args.place, None)?;
    let page = Call::get("/metrics").send(&data)?;
    output::data(&String::from_utf8_lossy(&page))
}
