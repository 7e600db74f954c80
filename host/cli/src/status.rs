//! `marram status`: what the device reports of its deployment and its modules, as IoT Edge does.

use serde_json::Value;

use crate::{
    args::Ask,
    ask::answer,
    client::Call,
    failure::Failure,
    output::{Table, plain},
};

pub(crate) fn status(ask: &Ask) -> Result<(), Failure> {
    answer(ask, Call::get("/v1/reported"), |reported: Value| text(&reported))
}

fn text(reported: &Value) -> String {
    let (agent, hub) = (&reported["$edgeAgent"], &reported["$edgeHub"]);
    let text = desired("$edgeAgent", agent) + &desired("$edgeHub", hub);
    let mut table = Table::new(&["MODULE", "STATUS", "EXIT", "RESTARTS", "LAST START", "DESCRIPTION"], &[2, 3]);
    let modules = agent["modules"].as_object().into_iter().flatten();
    for (name, module) in modules {
        let word = |key: &str| module[key].as_str().unwrap_or_default().to_owned();
        let start = word("lastStartTimeUtc");
        table.row([
            name.clone(),
            word("runtimeStatus"),
            module["exitCode"].to_string(),
            module["restartCount"].to_string(),
            if start.starts_with("0001-") { "-".into() } else { start },
            word("statusDescription"),
        ]);
    }
    text + &table.text()
}

/// What became of the desired properties tried last.
fn desired(name: &str, document: &Value) -> String {
    let status = &document["lastDesiredStatus"];
    let words = match status["code"].as_u64().unwrap_or_default() {
        200 => "as desired",
        400 => "refused",
        406 => "in progress",
        412 => "refused, unknown schema",
        417 => "empty",
        _ => "failed",
    };
    let why = status["description"].as_str().filter(|why| !why.is_empty()).map(|why| format!(": {}", plain(why)));
    format!(
        "{name:<10}  version {}, {words} ({}){}\n",
        document["lastDesiredVersion"],
        status["code"],
        why.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_is_what_was_tried_and_a_line_for_each_module() {
        let module = |status: &str, start: &str, what: &str| json!({ "runtimeStatus": status, "exitCode": 0, "restartCount": 2, "lastStartTimeUtc": start, "statusDescription": what });
        let reported = json!({
            "$edgeAgent": {
                "lastDesiredVersion": 4, "lastDesiredStatus": { "code": 400, "description": "modules.a.type: is missing" },
                "modules": {
                    "a": module("running", "2026-01-31T12:00:00Z", "up 5 s"), "b": module("unknown", "0001-01-01T00:00:00Z", "x\u{7}"),
                },
            },
            "$edgeHub": { "lastDesiredVersion": 3, "lastDesiredStatus": { "code": 200, "description": "" } },
        });
        let expected = "\
$edgeAgent  version 4, refused (400): modules.a.type: is missing
$edgeHub    version 3, as desired (200)
MODULE  STATUS   EXIT  RESTARTS  LAST START            DESCRIPTION
a       running     0         2  2026-01-31T12:00:00Z  up 5 s
b       unknown     0         2  -                     x�
";
        assert_eq!(text(&reported), expected);
    }
}
